//! `worker`: a process that holds a part of the connections of a run which another process coordinates.

use super::Member;
use super::message::{Assignment, Counts, Hello, Order, Reply, Request, VERSION, read, write};
use super::remote::set_up;
use super::threads::Threads;
use crate::clock;
use crate::environment::Environment;
use crate::host;
use crate::options::WorkerOptions;
use crate::tally::Interval;
use crate::worker::Totals;
use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// How often the coordinator is told where the connections stand, when that changes.
const TELL_EVERY: Duration = Duration::from_millis(10);
/// How long a coordinator may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How far away the beginning of a run may be, nanoseconds.
const LEAD_NS_MAX: u64 = 60_000_000_000;
/// How long to wait when no connection can be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves one coordinator on standard input and output, or one after the other at an address.
pub(crate) fn serve(options: &WorkerOptions) -> Result<u8, String> {
    let Some(addr) = options.listen else {
        // The parent tells what went wrong.
        let is_done = serve_one(std::io::stdin(), std::io::stdout(), options).is_ok();
        return Ok(if is_done { 0 } else { crate::NO_RUN });
    };
    let listener = TcpListener::bind(addr).map_err(|error| format!("--listen {addr}: {error}"))?;
    let addr = listener.local_addr().map_err(|error| error.to_string())?;
    eprintln!("loadgen: worker waits for runs at {addr}");
    loop {
        match listener.accept() {
            Ok((stream, from)) => serve_stream(&stream, from, options),
            // A connection that broke before it was taken, or no descriptor is free.
            Err(error) => {
                eprintln!("loadgen: {error}");
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn serve_stream(stream: &TcpStream, from: SocketAddr, options: &WorkerOptions) {
    eprintln!("loadgen: run of {from}");
    let served = set_up(stream)
        .and_then(|()| stream.try_clone())
        .map_err(|error| error.to_string())
        .and_then(|input| serve_one(input, stream, options));
    match served {
        Ok(()) => eprintln!("loadgen: run of {from} is over"),
        Err(error) => eprintln!("loadgen: run of {from} ended: {error}"),
    }
    // The reading thread may be in the middle of a line.
    let _ = stream.shutdown(Shutdown::Both);
}

/// One run. The error has been told to the coordinator, if that still listens.
fn serve_one(
    input: impl Read + Send + 'static,
    mut out: impl Write,
    options: &WorkerOptions,
) -> Result<(), String> {
    let (to_requests, requests) = channel();
    std::thread::spawn(move || listen(input, &to_requests));
    let served = greet(&requests, &mut out).and_then(|()| {
        let mut session = Session::prepare(&requests, &mut out, options)?;
        let served = session.run(&requests);
        session.threads.into_iter().for_each(close);
        served
    });
    if let Err(error) = &served {
        let _ = write(&mut out, &Reply::Failed(error.clone()));
    }
    served
}

/// Reads what the coordinator says, until it ends; a message that is none ends it too.
fn listen(input: impl Read, requests: &Sender<Result<Request, String>>) {
    let mut input = BufReader::new(input);
    loop {
        let request = match read(&mut input) {
            Ok(Some(request)) => Ok(request),
            Ok(None) => return,
            Err(error) => Err(format!("what came is no request: {error}")),
        };
        let is_last = request.is_err();
        if requests.send(request).is_err() || is_last {
            return;
        }
    }
}

type Requests = Receiver<Result<Request, String>>;

const GONE: &str = "the coordinator is gone";

fn greet(requests: &Requests, out: &mut impl Write) -> Result<(), String> {
    let version = match requests.recv_timeout(HELLO_TIMEOUT) {
        Ok(Ok(Request::Hello { version })) => version,
        Ok(Err(error)) => return Err(error),
        Ok(Ok(_)) => return Err("the first request must be hello".to_owned()),
        Err(_) => return Err("nobody said hello".to_owned()),
    };
    say(
        out,
        &Reply::Hello(Box::new(Hello {
            version: VERSION.to_owned(),
            host: host::name(),
            boot: host::boot().to_owned(),
            environment: Environment::read(),
        })),
    )?;
    match version == VERSION {
        true => Ok(()),
        false => Err(format!("this is loadgen {VERSION}, not {version}")),
    }
}

fn say(out: &mut impl Write, reply: &Reply) -> Result<(), String> {
    write(out, reply).map_err(|_| GONE.to_owned())
}

fn say_time(out: &mut impl Write) -> Result<(), String> {
    let now_ns = clock::monotonic_ns();
    say(out, &Reply::Clock { now_ns })
}

/// A run with its threads set up.
struct Session<'a, W> {
    out: &'a mut W,
    threads: Option<Threads>,
    intervals: Receiver<Interval>,
    /// What the coordinator knows, and since when.
    told: Counts,
    told_at: Instant,
    has_told_sent: bool,
    has_told_expected: bool,
}

impl<'a, W: Write> Session<'a, W> {
    fn prepare(
        requests: &Requests,
        out: &'a mut W,
        options: &WorkerOptions,
    ) -> Result<Self, String> {
        let assignment = loop {
            match requests.recv().map_err(|_| GONE.to_owned())?? {
                Request::Probe => say_time(out)?,
                Request::Prepare(assignment) => break *assignment,
                _ => return Err("this request comes too early".to_owned()),
            }
        };
        assignment.check()?;
        let Assignment {
            mut clients,
            work,
            part,
            clock_offset_ns,
        } = assignment;
        if !options.cores.is_empty() {
            clients.cores.clone_from(&options.cores);
        }
        if !options.source.is_empty() {
            clients.source.clone_from(&options.source);
        }
        clock::set_offset(clock_offset_ns);
        let (to_intervals, intervals) = channel();
        let threads = Threads::start(&clients, &work, &part, &to_intervals)?;
        say(out, &Reply::Ready)?;
        Ok(Self {
            out,
            threads: Some(threads),
            intervals,
            told: Counts::default(),
            told_at: Instant::now(),
            has_told_sent: false,
            has_told_expected: false,
        })
    }

    fn run(&mut self, requests: &Requests) -> Result<(), String> {
        loop {
            match requests.recv_timeout(TELL_EVERY) {
                Ok(request) => {
                    if let Some(totals) = self.handle(request?)? {
                        return self.finish(&totals);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(GONE.to_owned()),
            }
            self.tell()?;
        }
    }

    /// Does what is asked; the totals when that is to end.
    fn handle(&mut self, request: Request) -> Result<Option<Totals>, String> {
        let threads = self.threads.as_ref().expect("there until the end");
        match request {
            Request::Probe => say_time(self.out)?,
            Request::Read => say(self.out, &Reply::Usage(threads.read()?))?,
            Request::Order(Order::Begin { at_ns })
                if at_ns > clock::now_ns().saturating_add(LEAD_NS_MAX) =>
            {
                return Err("the run is to begin too late".to_owned());
            }
            Request::Order(order) => threads.order(&order),
            Request::Stop(totals) | Request::Foretell(totals) if !totals.is_sound() => {
                return Err("the schedule is not that of a run".to_owned());
            }
            Request::Foretell(totals) => threads.foretell(&totals),
            Request::Stop(totals) => return Ok(Some(totals)),
            Request::Hello { .. } | Request::Prepare(_) => {
                return Err("this request comes too late".to_owned());
            }
        }
        Ok(None)
    }

    /// Tells the coordinator what is new.
    fn tell(&mut self) -> Result<(), String> {
        let threads = self.threads.as_ref().expect("there until the end");
        threads.check()?;
        let counts = threads.counts();
        if counts != self.told && self.told_at.elapsed() >= TELL_EVERY {
            say(self.out, &Reply::Counts(counts))?;
            (self.told, self.told_at) = (counts, Instant::now());
        }
        for interval in self.intervals.try_iter() {
            say(self.out, &Reply::Interval(interval))?;
        }
        if !self.has_told_sent
            && let Some(sent) = threads.sent()
        {
            say(self.out, &Reply::Sent(sent))?;
            self.has_told_sent = true;
        }
        if !self.has_told_expected
            && let Some(expected) = threads.expected()
        {
            say(self.out, &Reply::Expected(expected))?;
            self.has_told_expected = true;
        }
        Ok(())
    }

    fn finish(&mut self, totals: &Totals) -> Result<(), String> {
        let threads = Box::new(self.threads.take().expect("there until the end"));
        threads.stop(totals);
        let (tally, ended) = threads.finish()?;
        for interval in self.intervals.try_iter() {
            say(self.out, &Reply::Interval(interval))?;
        }
        say(self.out, &Reply::Tally(Box::new(tally)))?;
        ended.join();
        // A coordinator that has its report does not wait for this.
        let _ = say(self.out, &Reply::Closed);
        Ok(())
    }
}

/// Ends the threads of a run that was broken off.
fn close(threads: Threads) {
    threads.stop(&Totals::nothing());
    if let Ok((_, ended)) = Box::new(threads).finish() {
        ended.join();
    }
}

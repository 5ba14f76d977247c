//! The coordinator's end of a worker process: one that it started itself, or one on another host.

use super::message::{
    Assignment, Counts, Hello, Order, Reply, Request, Usage, VERSION, read, write,
};
use super::offset::{Offset, Sample};
use super::{Ended, Member, Part, Work, parts};
use crate::clock;
use crate::environment::Environment;
use crate::host;
use crate::options::Clients;
use crate::report::grouped;
use crate::source::check_ports;
use crate::tally::{Interval, Tally};
use crate::worker::Totals;
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Questions for the clock of a worker process.
const PROBES: u32 = 64;
/// How long a worker process may take to answer; more than the stalls of a host under load.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take to set its rings up, or to count.
const WORK_TIMEOUT: Duration = Duration::from_secs(120);
/// How long closing all its connections may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(600);

/// A process that held connections of the run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ProcessReport {
    /// Its number and host, or its address.
    pub(crate) name: String,
    /// Its connections.
    pub(crate) connections: u32,
    /// Its worker threads.
    pub(crate) threads: usize,
    /// Resident memory at the end, bytes.
    pub(crate) rss_bytes: u64,
    /// Its clock; `None` when it is that of the coordinator.
    pub(crate) clock: Option<ClockReport>,
    /// Where it ran; `None` when on the coordinator's host.
    pub(crate) environment: Option<Environment>,
}

/// All but the name.
impl fmt::Display for ProcessReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (connections, threads) = (grouped(self.connections.into()), self.threads);
        let s = if threads == 1 { "" } else { "s" };
        write!(f, "{connections} connections, {threads} thread{s}")?;
        if let Some(clock) = self.clock {
            let (offset_ms, error_ms) = (clock.offset_ms, clock.error_ms);
            write!(
                f,
                ", clock {offset_ms:+.3} ms from ours, ± {error_ms:.3} ms, drift {:+.3} ms",
                clock.drift_ms
            )?;
        }
        if let Some(there) = &self.environment {
            write!(
                f,
                ", {} ({} cores), {}",
                there.cpu, there.cores, there.kernel
            )?;
        }
        Ok(())
    }
}

/// The clock of a process on another host.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ClockReport {
    /// Its clock minus the coordinator's before the run, milliseconds.
    pub(crate) offset_ms: f64,
    /// The offset is off by no more than this, milliseconds: half the shortest round trip, and the drift.
    pub(crate) error_ms: f64,
    /// How much the offset changed during the run, milliseconds.
    pub(crate) drift_ms: f64,
}

/// A worker process.
pub(super) struct Remote {
    name: String,
    hello: Hello,
    connections: u32,
    offset: Offset,
    /// As measured at the end.
    last_offset: Cell<Offset>,
    last_usage: RefCell<Usage>,
    line: Line,
}

/// The connection to it.
struct Line {
    name: String,
    /// `None` once it is closed.
    out: RefCell<Option<Box<dyn Write>>>,
    replies: Receiver<(u64, Reply)>,
    seen: Arc<Mutex<Seen>>,
    stream: Option<TcpStream>,
    child: Option<Child>,
}

/// What the reading thread keeps of what came.
#[derive(Default)]
struct Seen {
    counts: Counts,
    sent: Option<Vec<u32>>,
    expected: Option<u64>,
    /// Why nothing more comes.
    ended: Option<String>,
}

impl Remote {
    /// Starts `--processes`, or connects to `--workers`, and has them set their threads up.
    pub(super) fn start_all(
        clients: &Clients,
        work: &Work,
        intervals: &Sender<Interval>,
    ) -> Result<Vec<Self>, String> {
        let count = match clients.workers.len() {
            0 => clients.processes,
            count => count as u32,
        };
        let parts = parts(clients.connections, count)?;
        if clients.workers.is_empty() {
            // All are on this host.
            let (all, ports) = (clients.connections, host::local_ports());
            check_ports(all, &clients.source, clients.target, ports)?;
        }
        let mut all = Vec::with_capacity(parts.len());
        for (index, part) in (0..).zip(&parts) {
            let line = match clients.workers.get(index) {
                Some(addr) => Line::connect(addr, intervals)?,
                None => Line::spawn(index + 1, intervals)?,
            };
            all.push(Self::greet(line, part)?);
        }
        for (index, (remote, part)) in (0..).zip(all.iter().zip(parts)) {
            let mut clients = clients.clone();
            if clients.workers.is_empty() {
                clients.cores = cores_of(&clients.cores, index, clients.processes as usize);
            }
            let assignment = Assignment {
                clients,
                work: work.clone(),
                part,
                clock_offset_ns: remote.offset.ns,
            };
            remote.line.say(&Request::Prepare(Box::new(assignment)));
        }
        for remote in &all {
            match remote.line.wait(WORK_TIMEOUT)? {
                (_, Reply::Ready) => {}
                (_, other) => return Err(remote.line.unexpected(&other)),
            }
        }
        Ok(all)
    }

    fn greet(line: Line, part: &Part) -> Result<Self, String> {
        line.say(&Request::Hello {
            version: VERSION.to_owned(),
        });
        let hello = match line.wait(ANSWER_TIMEOUT)?.1 {
            Reply::Hello(hello) if hello.version == VERSION => hello,
            Reply::Hello(hello) => {
                return Err(format!(
                    "{} is loadgen {}, this is {VERSION}",
                    line.name, hello.version
                ));
            }
            other => return Err(line.unexpected(&other)),
        };
        let mut offset = line.probe()?;
        if hello.boot == host::boot() {
            offset = offset.on_one_kernel();
        }
        Ok(Self {
            name: format!("{} on {}", line.name, hello.host),
            hello: *hello,
            connections: part.connections.len() as u32,
            offset,
            last_offset: Cell::new(offset),
            last_usage: RefCell::default(),
            line,
        })
    }

    fn has_our_clock(&self) -> bool {
        self.offset == Offset::default()
    }

    /// Most that its clock was off at any time of the run: the error of the offset, and its drift.
    fn error_ns(&self) -> u64 {
        let (first, last) = (self.offset, self.last_offset.get());
        let drift_ns = last.ns - first.ns;
        first.error_ns.max(last.error_ns) + drift_ns.unsigned_abs()
    }
}

impl Member for Remote {
    fn order(&self, order: &Order) {
        self.line.say(&Request::Order(*order));
    }

    fn counts(&self) -> Counts {
        self.line.seen().counts
    }

    fn read(&self) -> Result<Usage, String> {
        self.line.say(&Request::Read);
        match self.line.wait(ANSWER_TIMEOUT)? {
            (_, Reply::Usage(usage)) => {
                self.last_usage.replace(usage.clone());
                Ok(usage)
            }
            (_, other) => Err(self.line.unexpected(&other)),
        }
    }

    fn sent(&self) -> Option<Vec<u32>> {
        self.line.seen().sent.clone()
    }

    fn foretell(&self, totals: &Totals) {
        let error_ns = self.offset.error_ns;
        let totals = totals.with_slack(|slack| slack.clock_error_ns = error_ns);
        self.line.say(&Request::Foretell(totals));
    }

    fn expected(&self) -> Option<u64> {
        self.line.seen().expected
    }

    fn check(&self) -> Result<(), String> {
        match &self.line.seen().ended {
            None => Ok(()),
            Some(why) => Err(format!("{}: {why}", self.line.name)),
        }
    }

    fn clock_error_ns(&self) -> u64 {
        self.offset.error_ns
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn describe(&self) -> Option<ProcessReport> {
        let (first, last) = (self.offset, self.last_offset.get());
        let drift_ns = last.ns - first.ns;
        let usage = self.last_usage.borrow();
        Some(ProcessReport {
            name: self.name.clone(),
            connections: self.connections,
            threads: usage.threads.len(),
            rss_bytes: usage.process.rss_bytes,
            clock: (!self.has_our_clock()).then(|| ClockReport {
                offset_ms: first.ns as f64 / 1e6,
                error_ms: self.error_ns() as f64 / 1e6,
                drift_ms: drift_ns as f64 / 1e6,
            }),
            environment: (self.hello.boot != host::boot()).then(|| self.hello.environment.clone()),
        })
    }

    fn stop(&self, totals: &Totals) {
        // One that does not answer is found out by `finish`.
        if !self.has_our_clock()
            && let Ok(offset) = self.line.probe()
        {
            self.last_offset.set(offset);
        }
        let error_ns = self.error_ns();
        let totals = totals.with_slack(|slack| slack.clock_error_ns = error_ns);
        self.line.say(&Request::Stop(totals));
    }

    fn finish(self: Box<Self>) -> Result<(Tally, Box<dyn Ended>), String> {
        match self.line.wait(WORK_TIMEOUT)? {
            (_, Reply::Tally(tally)) => Ok((*tally, Box::new(self.line))),
            (_, other) => Err(self.line.unexpected(&other)),
        }
    }
}

impl Line {
    /// Starts a process of this program.
    fn spawn(number: usize, intervals: &Sender<Interval>) -> Result<Self, String> {
        let name = format!("process {number}");
        let text = |error: std::io::Error| format!("process {number}: {error}");
        let program = std::env::current_exe().map_err(text)?;
        let mut child = Command::new(program)
            .args(["worker", "--stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(text)?;
        let (input, out) = child.stdout.take().zip(child.stdin.take()).expect("piped");
        let mut line = Self::open(name, input, Box::new(out), intervals);
        line.child = Some(child);
        Ok(line)
    }

    /// Connects to `loadgen worker --listen`.
    fn connect(addr: &str, intervals: &Sender<Interval>) -> Result<Self, String> {
        let text = |error: std::io::Error| {
            format!("no worker at {addr}: {error}; start one there with `loadgen worker --listen`")
        };
        let mut error = std::io::Error::other("the name has no address");
        for addr in addr.to_socket_addrs().map_err(text)? {
            match TcpStream::connect_timeout(&addr, ANSWER_TIMEOUT) {
                Ok(stream) => {
                    set_up(&stream).map_err(text)?;
                    let (input, out) = (
                        stream.try_clone().map_err(text)?,
                        stream.try_clone().map_err(text)?,
                    );
                    let name = format!("worker {addr}");
                    let mut line = Self::open(name, input, Box::new(out), intervals);
                    line.stream = Some(stream);
                    return Ok(line);
                }
                Err(refused) => error = refused,
            }
        }
        Err(text(error))
    }

    fn open(
        name: String,
        input: impl Read + Send + 'static,
        out: Box<dyn Write>,
        intervals: &Sender<Interval>,
    ) -> Self {
        let (to_replies, replies) = channel();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (theirs, to_intervals) = (Arc::clone(&seen), intervals.clone());
        std::thread::spawn(move || listen(input, &theirs, &to_intervals, &to_replies));
        Self {
            name,
            out: RefCell::new(Some(out)),
            replies,
            seen,
            stream: None,
            child: None,
        }
    }

    /// Sends a request. One that cannot be sent is found out by who reads.
    fn say(&self, request: &Request) {
        if let Some(out) = self.out.borrow_mut().as_mut() {
            let _ = write(out, request);
        }
    }

    /// Waits for the next reply that is one to a request, and when it came.
    fn wait(&self, timeout: Duration) -> Result<(u64, Reply), String> {
        match self.replies.recv_timeout(timeout) {
            Ok(reply) => Ok(reply),
            Err(RecvTimeoutError::Timeout) => {
                // An answer that comes later would be taken for that to another question.
                let seconds = timeout.as_secs();
                let why = format!("no answer for {seconds} s: is it in another run?");
                let why = self.seen().ended.get_or_insert(why).clone();
                Err(format!("{}: {why}", self.name))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let why = self.seen().ended.clone().unwrap_or_default();
                Err(format!("{}: {why}", self.name))
            }
        }
    }

    /// Asks for the time, several times.
    fn probe(&self) -> Result<Offset, String> {
        let mut samples = Vec::with_capacity(PROBES as usize);
        for _ in 0..PROBES {
            let asked_ns = clock::now_ns();
            self.say(&Request::Probe);
            match self.wait(ANSWER_TIMEOUT)? {
                (came_ns, Reply::Clock { now_ns }) => samples.push(Sample {
                    asked_ns,
                    theirs_ns: now_ns,
                    came_ns,
                }),
                (_, other) => return Err(self.unexpected(&other)),
            }
        }
        Ok(Offset::of(&samples).unwrap_or_default())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // What a thread that panicked has left is whole.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unexpected(&self, reply: &Reply) -> String {
        match reply {
            Reply::Failed(why) => format!("{}: {why}", self.name),
            _ => format!("{} said what was not asked", self.name),
        }
    }
}

impl Ended for Line {
    fn join(self: Box<Self>) {
        // Who does not answer in that time has ended or will not close.
        let _ = self.wait(CLOSE_TIMEOUT);
    }
}

/// A process that was started ends with its line.
impl Drop for Line {
    fn drop(&mut self) {
        self.out.replace(None);
        if let Some(stream) = &self.stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(child) = self.child.take() {
            children().push(child);
        }
    }
}

/// Processes that are closing their connections.
fn children() -> MutexGuard<'static, Vec<Child>> {
    static CHILDREN: Mutex<Vec<Child>> = Mutex::new(Vec::new());
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the processes that were started have closed their connections, so that the next run finds
/// their ports free. To be called when the report is out.
pub(crate) fn join_processes() {
    for child in children().iter_mut() {
        // One that cannot be waited for has ended.
        let _ = child.wait();
    }
}

/// For a connection between coordinator and worker process: no delay, and an end when the other host is
/// gone.
pub(super) fn set_up(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(ANSWER_TIMEOUT))?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(5))
        .with_interval(Duration::from_secs(5));
    socket.set_tcp_keepalive(&keepalive)
}

/// Reads what a worker process says, until it ends.
fn listen(
    input: impl Read,
    seen: &Mutex<Seen>,
    intervals: &Sender<Interval>,
    replies: &Sender<(u64, Reply)>,
) {
    let mut input = BufReader::new(input);
    let why = loop {
        let reply = match read(&mut input) {
            Ok(Some(reply)) => reply,
            Ok(None) => break "it ended".to_owned(),
            Err(error) => break error.to_string(),
        };
        let came_ns = clock::now_ns();
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match reply {
            Reply::Counts(counts) => seen.counts = counts,
            Reply::Sent(sent) => seen.sent = Some(sent),
            Reply::Expected(expected) => seen.expected = Some(expected),
            // Nobody listens any more once the course is complete.
            Reply::Interval(interval) => drop(intervals.send(interval)),
            Reply::Failed(why) => break why,
            reply => drop(replies.send((came_ns, reply))),
        }
    };
    seen.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .ended
        .get_or_insert(why);
}

/// The cores of one of several processes of this host: in turn, one at least.
fn cores_of(cores: &[usize], index: usize, processes: usize) -> Vec<usize> {
    let all = match cores {
        [] => core_affinity::get_core_ids()
            .unwrap_or_default()
            .iter()
            .map(|core| core.id)
            .collect(),
        cores => cores.to_vec(),
    };
    if processes >= all.len() {
        return all
            .get(index % all.len().max(1))
            .copied()
            .into_iter()
            .collect();
    }
    all.into_iter().skip(index).step_by(processes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_one_host_share_no_core_while_there_are_enough() {
        let cores = [3, 4, 5, 6, 7];
        assert_eq!(cores_of(&cores, 0, 2), [3, 5, 7]);
        assert_eq!(cores_of(&cores, 1, 2), [4, 6]);
        assert_eq!(cores_of(&cores[..2], 2, 3), [3]);
    }
}

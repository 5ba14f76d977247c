//! `presence`: many clients in one big room and many small ones, and what the broker says who is there.
//!
//! All subscribe, as in `idle`. Then a connection of its own asks for the presence statistics of every
//! room, and once more after all have left at once.

use crate::clock;
use crate::dialect::ROOM_PREFIX;
use crate::fleet::{POLL, Work};
use crate::options::{Clients, Presence};
use crate::publisher;
use crate::report::{PresenceReport, Report};
use crate::rooms::room_of;
use crate::scenario::{Marks, Stage};
use crate::target;
use crate::upgrade::{self, Numbers};
use crate::worker::Totals;
use ringcast::wire::frame::{Opcode, Role, write_client_frame};
use ringcast::wire::message::{Assembler, Incoming};
use serde::Deserialize;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the rooms may take to be empty after all have left.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(30);
/// Questions in one message, below the broker's bound for commands.
const QUESTIONS_MAX: usize = 50;

/// Runs the scenario. The error says why there was no run.
pub(crate) fn run(options: &Presence) -> Result<Report, String> {
    let mut clients = options.clients.clone().with_rooms(options.small_rooms + 1);
    clients.crowd = options.big_room.min(clients.connections);
    let rooms = clients.rooms();
    let expected = expected(&clients);
    target::check(clients.target)?;
    let work = Work {
        run: publisher::run_number(),
        chat: None,
        life: None,
    };
    let stage = Stage::connect(&clients, &work, &options.observe, &options.output)?;
    let begin = stage.mark()?;
    let mut desk = Desk::connect(&clients).map_err(|error| format!("presence: {error}"))?;
    let mut ask = |rooms| {
        desk.ask(rooms)
            .map_err(|error| format!("presence: {error}"))
    };
    let there = ask(rooms)?;
    let end = stage.mark()?;
    let marks = Marks {
        steady_ns: 0,
        begin,
        over: end.clone(),
        end,
    };
    let mut ending = stage.finish(&Totals::nothing())?;
    let report = ending.report(&clients, &marks);
    let tally = ending.finished.join();
    let left = Instant::now();
    let is_empty = loop {
        if ask(rooms)?.iter().all(|count| *count == 0) {
            break true;
        }
        if left.elapsed() > LEAVE_TIMEOUT {
            break false;
        }
        std::thread::sleep(POLL);
    };
    let presence = PresenceReport {
        rooms,
        rooms_right: there
            .iter()
            .zip(&expected)
            .filter(|(there, expected)| there == expected)
            .count() as u32,
        clients: there.iter().map(|count| u64::from(*count)).sum(),
        empty_after_seconds: is_empty.then(|| left.elapsed().as_secs_f64()),
    };
    Ok(Report {
        ok: tally.is_clean()
            && tally.subscribed == u64::from(clients.connections)
            && presence.is_right(),
        presence: Some(presence),
        ..report
    })
}

/// Clients of each room.
fn expected(clients: &Clients) -> Vec<u32> {
    let mut counts = vec![0; clients.rooms() as usize];
    for connection in 0..clients.connections {
        counts[room_of(connection, clients.rooms(), clients.crowd) as usize] += 1;
    }
    counts
}

/// A connection that asks.
struct Desk {
    stream: TcpStream,
    assembler: Assembler,
    numbers: Numbers,
    next_id: usize,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    id: usize,
    presence_stats: Option<Stats>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Stats {
    num_clients: u32,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    code: u32,
    message: String,
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

impl Desk {
    fn connect(clients: &Clients) -> Outcome<Self> {
        let mut stream = TcpStream::connect(clients.target)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_nodelay(true)?;
        let mut numbers = Numbers::new(clock::now_ns());
        let seed = numbers.next();
        let mut out = Vec::new();
        let path = clients.path.as_deref().unwrap_or("/connection/websocket");
        upgrade::write_request(
            &mut out,
            &clients.target.to_string(),
            path.as_bytes(),
            None,
            seed,
        );
        stream.write_all(&out)?;
        // Nothing follows the response until the client speaks.
        let mut head = Vec::new();
        while upgrade::check_response(&head, None, seed)
            .map_err(|failure| failure.to_string())?
            .is_none()
        {
            let mut buffer = [0; 1024];
            match stream.read(&mut buffer)? {
                0 => return Err("the stream ended".into()),
                count => head.extend_from_slice(&buffer[..count]),
            }
        }
        let mut desk = Self {
            stream,
            assembler: Assembler::with_message_max(Role::Client, 1024 * 1024),
            numbers,
            next_id: 2,
        };
        desk.send(r#"{"id":1,"connect":{"name":"loadgen"}}"#)?;
        desk.answers(1, |_| {})?;
        Ok(desk)
    }

    /// Clients in each of the rooms.
    fn ask(&mut self, rooms: u32) -> Outcome<Vec<u32>> {
        let mut counts = vec![0; rooms as usize];
        let rooms: Vec<u32> = (0..rooms).collect();
        for some in rooms.chunks(QUESTIONS_MAX) {
            let (first_id, mut questions) = (self.next_id, String::new());
            for room in some {
                let id = self.next_id;
                // Writing to a string cannot fail.
                let _ = writeln!(
                    questions,
                    "{{\"id\":{id},\"presence_stats\":{{\"channel\":\"{ROOM_PREFIX}{room}\"}}}}"
                );
                self.next_id += 1;
            }
            self.send(questions.trim_end())?;
            self.answers(some.len(), |reply| {
                let room = reply.id.checked_sub(first_id);
                let room = room.and_then(|index| some.get(index));
                if let (Some(room), Some(stats)) = (room, &reply.presence_stats) {
                    counts[*room as usize] = stats.num_clients;
                }
            })?;
        }
        Ok(counts)
    }

    fn send(&mut self, text: &str) -> Outcome<()> {
        let mut frame = Vec::new();
        let mask = (self.numbers.next() as u32).to_ne_bytes();
        write_client_frame(&mut frame, Opcode::Text, mask, text.as_bytes());
        Ok(self.stream.write_all(&frame)?)
    }

    /// Reads that many replies; answers pings between them.
    fn answers(&mut self, count: usize, mut take: impl FnMut(&Reply)) -> Outcome<()> {
        let (mut left, mut pings) = (count, 0);
        while left > 0 {
            let mut buffer = [0; 16 * 1024];
            let count = self.stream.read(&mut buffer)?;
            if count == 0 {
                return Err("the stream ended".into());
            }
            let mut input = &mut buffer[..count];
            while let Some(incoming) = self
                .assembler
                .next(&mut input)
                .map_err(|_| "a frame breaks RFC 6455")?
            {
                let payload = match incoming {
                    Incoming::Message { payload, .. } => payload,
                    Incoming::Close { code, .. } => return Err(format!("closed: {code:?}").into()),
                    Incoming::Ping(_) | Incoming::Pong(_) => continue,
                };
                for line in payload.split(|byte| *byte == b'\n') {
                    if line == b"{}" {
                        pings += 1;
                        continue;
                    }
                    let reply: Reply = serde_json::from_slice(line)?;
                    if let Some(refusal) = reply.error {
                        return Err(format!("error {}: {}", refusal.code, refusal.message).into());
                    }
                    take(&reply);
                    left = left.saturating_sub(1);
                }
            }
            for _ in 0..std::mem::take(&mut pings) {
                self.send("{}")?;
            }
        }
        Ok(())
    }
}

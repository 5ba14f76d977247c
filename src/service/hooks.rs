//! Events of clients and the services that decide on them or are told of them.
//!
//! A shard sends an event and always gets one answer: the service's, or an error when no service has
//! registered for it, when none answers in time, or when the one that was asked is gone. Answers wait
//! here for lane room, so that none is lost; events are taken from the lanes only while few do.

use super::Shared;
use super::mailbox::Mailbox;
use crate::base::NodeId;
use crate::base::slab::Slab;
use crate::base::stats::ServiceStats;
use crate::limits::{
    CONTROL_PAYLOAD_MAX, EVENTS_PENDING_MAX, EVENTS_PENDING_PER_CONN_MAX, LANE_FRAMES_PER_TURN,
    SERVICE_TICK_MS,
};
use crate::mesh::{self, Delivery, Event, LaneFull, Outlets, ReplyTo};
use crate::wire::hook::{self, HookKind};
use crate::wire::upstream::{ErrorCode, EventKind, Frame, Names, Verdict};
use glommio::timer::sleep;
use hashbrown::HashMap;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// An upstream connection: index and generation.
type Conn = (u32, u32);

/// Answers events whose time is up, for ever.
pub(super) async fn watch(shared: Rc<Shared>) {
    let most = Duration::from_millis(SERVICE_TICK_MS);
    loop {
        let quiet = shared.node.hooks.quiet_for(Instant::now(), most);
        sleep(quiet.max(Duration::from_millis(1))).await;
        shared.node.expire_events();
    }
}

/// Codes of the client protocol that stand for the want of an answer.
const INTERNAL: (u32, &str) = (100, "internal server error");
const NO_METHOD: (u32, &str) = (104, "method not found");
const NOT_AVAILABLE: (u32, &str) = (108, "not available");

/// See the module.
#[derive(Debug)]
pub(super) struct Hooks {
    timeout: Duration,
    handlers: RefCell<Vec<Handler>>,
    /// Events that services have been asked, by the request id of their frame.
    pending: RefCell<HashMap<u64, Pending>>,
    /// Their deadlines, which come in the order of the events.
    deadlines: RefCell<VecDeque<(Instant, u64)>>,
    last_request: Cell<u64>,
    /// Events passed on, told ones too.
    passed: Cell<u64>,
    /// Answers that wait for lane room.
    answers: RefCell<VecDeque<(NodeId, Answer)>>,
}

/// What a connection has registered for.
#[derive(Debug)]
struct Handler {
    conn: Conn,
    events: u32,
    /// None for all.
    namespaces: Vec<Box<str>>,
    /// None for all.
    methods: Vec<Box<str>>,
    pending: usize,
    /// How many events had been passed on when it got its last one.
    last: u64,
}

#[derive(Debug)]
struct Pending {
    conn: Conn,
    shard: NodeId,
    reply: ReplyTo,
    kind: EventKind,
}

#[derive(Debug)]
struct Answer {
    reply: ReplyTo,
    verdict: Verdict,
    code: u32,
    text: Box<str>,
    result: Box<[u8]>,
}

impl Hooks {
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            handlers: RefCell::default(),
            pending: RefCell::default(),
            deadlines: RefCell::default(),
            last_request: Cell::new(0),
            passed: Cell::new(0),
            answers: RefCell::default(),
        }
    }

    /// A connection wants these events, and no others that it wanted before.
    pub(super) fn register(
        &self,
        conn: Conn,
        events: u32,
        namespaces: Names<'_>,
        methods: Names<'_>,
    ) {
        let owned = |names: Names<'_>| names.iter().map(Box::from).collect();
        let mut handlers = self.handlers.borrow_mut();
        let at = handlers.iter().position(|handler| handler.conn == conn);
        let (pending, last) = at.map_or((0, 0), |at| (handlers[at].pending, handlers[at].last));
        let handler = Handler {
            conn,
            events,
            namespaces: owned(namespaces),
            methods: owned(methods),
            pending,
            last,
        };
        match at {
            Some(at) => handlers[at] = handler,
            None => handlers.push(handler),
        }
    }

    /// A connection is gone: what it was asked is answered with an error.
    pub(super) fn forget(&self, conn: Conn, stats: &ServiceStats) {
        let mut handlers = self.handlers.borrow_mut();
        handlers.retain(|handler| handler.conn != conn);
        let mut answers = self.answers.borrow_mut();
        self.pending.borrow_mut().retain(|_, pending| {
            if pending.conn == conn {
                stats.events_abandoned_total.add(1);
                answers.push_back((pending.shard, Answer::without(pending.reply)));
            }
            pending.conn != conn
        });
    }

    /// Whether another event may be taken from a lane.
    pub(super) fn has_room(&self) -> bool {
        self.answers.borrow().len() < LANE_FRAMES_PER_TURN
    }

    /// Whether answers wait for lane room.
    pub(super) fn is_waiting(&self) -> bool {
        !self.answers.borrow().is_empty()
    }

    /// An event of a client of `shard`: goes to a service that wants it, or is answered.
    pub(super) fn event(
        &self,
        shard: NodeId,
        event: &Event<'_>,
        mailboxes: &Slab<Rc<Mailbox>>,
        stats: &ServiceStats,
    ) {
        stats.events_total.add(1);
        let kind = event.kind;
        let wants_answer = event.reply != ReplyTo::Nobody;
        let mut handlers = self.handlers.borrow_mut();
        let Some((handler, mailbox)) = self.choose(&mut handlers, kind, event.subject, mailboxes)
        else {
            if !wants_answer {
                stats.events_dropped_total.add(1);
                return;
            }
            stats.events_unhandled_total.add(1);
            let answer = unhandled(&handlers, kind, event.subject, event.reply);
            self.answers.borrow_mut().push_back((shard, answer));
            return;
        };
        let mut request = 0;
        if wants_answer {
            request = self.last_request.get() + 1;
            self.last_request.set(request);
            handler.pending += 1;
            let pending = Pending {
                conn: handler.conn,
                shard,
                reply: event.reply,
                kind,
            };
            self.pending.borrow_mut().insert(request, pending);
            let deadline = Instant::now() + self.timeout;
            self.deadlines.borrow_mut().push_back((deadline, request));
        }
        mailbox.send(&Frame::Event {
            request,
            subject: event.subject,
            kind,
            content: event.content,
            deadline_ms: u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX),
            code: event.code,
            text: event.text,
            info: event.info,
            meta: event.meta,
            data: event.data,
        });
    }

    /// Of those who want the event and take what they are sent the one that had none for longest.
    fn choose<'a>(
        &self,
        handlers: &'a mut [Handler],
        kind: EventKind,
        subject: &str,
        mailboxes: &Slab<Rc<Mailbox>>,
    ) -> Option<(&'a mut Handler, Rc<Mailbox>)> {
        if self.pending.borrow().len() >= EVENTS_PENDING_MAX {
            return None;
        }
        let able = handlers.iter_mut().filter_map(|handler| {
            let is_free = handler.pending < EVENTS_PENDING_PER_CONN_MAX;
            if !is_free || !handler.wants(kind, subject) {
                return None;
            }
            let mailbox = mailboxes.get(handler.conn.0, handler.conn.1)?;
            let takes = !mailbox.output.borrow().is_long();
            takes.then_some((handler, mailbox))
        });
        let (handler, mailbox) = able.min_by_key(|(handler, _)| handler.last)?;
        self.passed.set(self.passed.get() + 1);
        handler.last = self.passed.get();
        Some((handler, Rc::clone(mailbox)))
    }

    /// A service's answer. One that comes too late, or to nothing, is counted and forgotten.
    ///
    /// # Errors
    /// When it is not one that a client can be given; the client gets an error, and so does the service.
    pub(super) fn answered(
        &self,
        conn: Conn,
        answer: &Frame<'_>,
        stats: &ServiceStats,
    ) -> Result<(), (ErrorCode, &'static str)> {
        let Frame::Answer {
            request,
            verdict,
            code,
            text,
            result,
        } = *answer
        else {
            return Ok(());
        };
        let is_theirs = |pending: &Pending| pending.conn == conn;
        if !self.pending.borrow().get(&request).is_some_and(is_theirs) {
            stats.late_answers_total.add(1);
            return Ok(());
        }
        let Some(pending) = self.settle(request) else {
            return Ok(());
        };
        let checked = check(pending.kind, verdict, code, text, result);
        let answer = match checked {
            Ok(()) => {
                stats.event_answers_total.add(1);
                Answer {
                    reply: pending.reply,
                    verdict,
                    code,
                    text: text.into(),
                    result: result.into(),
                }
            }
            Err(_) => {
                stats.event_answers_invalid_total.add(1);
                Answer::without(pending.reply)
            }
        };
        self.answers.borrow_mut().push_back((pending.shard, answer));
        checked
    }

    /// Answers events whose time is up.
    pub(super) fn expire(&self, now: Instant, stats: &ServiceStats) {
        while let Some(request) = self.overdue(now) {
            if let Some(pending) = self.settle(request) {
                stats.event_timeouts_total.add(1);
                let answer = Answer::without(pending.reply);
                self.answers.borrow_mut().push_back((pending.shard, answer));
            }
        }
    }

    /// How long nothing comes due, at most `most`.
    pub(super) fn quiet_for(&self, now: Instant, most: Duration) -> Duration {
        let deadlines = self.deadlines.borrow();
        let next = deadlines
            .front()
            .map(|(at, _)| at.saturating_duration_since(now));
        next.map_or(most, |next| next.min(most))
    }

    /// Sends answers while lanes have room for them.
    pub(super) fn flush(&self, outlets: &mut Outlets) {
        let mut answers = self.answers.borrow_mut();
        while let Some((shard, answer)) = answers.front() {
            let delivery = Delivery::Answer(mesh::Answer {
                reply: answer.reply,
                verdict: answer.verdict,
                code: answer.code,
                text: &answer.text,
                result: &answer.result,
            });
            if let Err(LaneFull) = outlets.deliver(*shard, &delivery) {
                return;
            }
            answers.pop_front();
        }
    }

    fn overdue(&self, now: Instant) -> Option<u64> {
        let mut deadlines = self.deadlines.borrow_mut();
        let is_due = deadlines.front().is_some_and(|(at, _)| *at <= now);
        is_due.then(|| deadlines.pop_front().map(|(_, request)| request))?
    }

    fn settle(&self, request: u64) -> Option<Pending> {
        let pending = self.pending.borrow_mut().remove(&request)?;
        let mut handlers = self.handlers.borrow_mut();
        let handler = handlers
            .iter_mut()
            .find(|handler| handler.conn == pending.conn);
        if let Some(handler) = handler {
            handler.pending = handler.pending.saturating_sub(1);
        }
        Some(pending)
    }
}

impl Handler {
    fn wants(&self, kind: EventKind, subject: &str) -> bool {
        if self.events & kind.bit() == 0 {
            return false;
        }
        match kind {
            EventKind::Rpc => is_among(&self.methods, subject),
            EventKind::Subscribe
            | EventKind::Publish
            | EventKind::SubRefresh
            | EventKind::Unsubscribe => is_among(&self.namespaces, namespace_of(subject)),
            EventKind::Connect
            | EventKind::Refresh
            | EventKind::Message
            | EventKind::Disconnect => true,
        }
    }
}

impl Answer {
    /// What a client is told when there is no answer.
    fn without(reply: ReplyTo) -> Self {
        Self::error(reply, Verdict::TemporaryError, INTERNAL)
    }

    fn error(reply: ReplyTo, verdict: Verdict, (code, text): (u32, &str)) -> Self {
        Self {
            reply,
            verdict,
            code,
            text: text.into(),
            result: Box::default(),
        }
    }
}

/// The answer to an event that nobody takes: nobody has registered for it, or those who have are busy.
fn unhandled(handlers: &[Handler], kind: EventKind, subject: &str, reply: ReplyTo) -> Answer {
    let is_wanted = handlers.iter().any(|handler| handler.wants(kind, subject));
    if kind != EventKind::Rpc || is_wanted {
        return Answer::without(reply);
    }
    let answers_calls = handlers
        .iter()
        .any(|handler| handler.events & kind.bit() != 0);
    let error = if answers_calls {
        NO_METHOD
    } else {
        NOT_AVAILABLE
    };
    Answer::error(reply, Verdict::Error, error)
}

/// The list names it, or nothing.
fn is_among(names: &[Box<str>], name: &str) -> bool {
    names.is_empty() || names.iter().any(|listed| &**listed == name)
}

/// The namespace of a channel; empty for a channel without one.
fn namespace_of(channel: &str) -> &str {
    let bare = channel.strip_prefix('$').unwrap_or(channel);
    bare.split_once(':').map_or("", |(namespace, _)| namespace)
}

/// Whether a client can be given this answer.
fn check(
    kind: EventKind,
    verdict: Verdict,
    code: u32,
    text: &str,
    result: &[u8],
) -> Result<(), (ErrorCode, &'static str)> {
    let refuse = |why| Err((ErrorCode::InvalidPayload, why));
    match verdict {
        Verdict::Result => match hook::parse(hook_kind(kind), result) {
            Ok(_) => Ok(()),
            Err(error) => refuse(error.0),
        },
        Verdict::Error | Verdict::TemporaryError => {
            if !(100..=1_999).contains(&code) {
                return refuse("an error has a code from 100 to 1999");
            }
            if !(1..=255).contains(&text.len()) {
                return refuse("an error has a text of 1 to 255 bytes");
            }
            Ok(())
        }
        Verdict::Disconnect => {
            if !(3_000..=4_999).contains(&code) {
                return refuse("a close has a code from 3000 to 4999");
            }
            if !is_close_reason(text) {
                return refuse("a close has a text of 1 to 123 bytes that is not JSON");
            }
            Ok(())
        }
    }
}

/// Whether SDKs take a text for the reason of a close: an empty one or one that is JSON they do not.
pub(super) fn is_close_reason(text: &str) -> bool {
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    (1..=CONTROL_PAYLOAD_MAX - 2).contains(&text.len()) && !is_json
}

fn hook_kind(kind: EventKind) -> HookKind {
    match kind {
        EventKind::Connect => HookKind::Connect,
        EventKind::Subscribe => HookKind::Subscribe,
        EventKind::Publish => HookKind::Publish,
        EventKind::Refresh => HookKind::Refresh,
        EventKind::SubRefresh => HookKind::SubRefresh,
        // The last three are never answered.
        EventKind::Rpc | EventKind::Message | EventKind::Disconnect | EventKind::Unsubscribe => {
            HookKind::Rpc
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_of_an_event_says_whom_it_is_for() {
        for (channel, namespace) in [("a", ""), ("$a:b", "a"), ("a:b:c", "a"), (":b", "")] {
            assert_eq!(namespace_of(channel), namespace, "{channel}");
        }
        let handler = Handler {
            conn: (0, 0),
            events: EventKind::Subscribe.bit() | EventKind::Rpc.bit(),
            namespaces: vec!["chat".into()],
            methods: Vec::new(),
            pending: 0,
            last: 0,
        };
        assert!(handler.wants(EventKind::Subscribe, "chat:1"));
        assert!(!handler.wants(EventKind::Subscribe, "news:1"));
        assert!(!handler.wants(EventKind::Publish, "chat:1"));
        assert!(handler.wants(EventKind::Rpc, "any"));
    }

    #[test]
    fn answers_that_clients_cannot_be_given_are_refused() {
        let check = |verdict, code, text, result: &str| {
            check(EventKind::Subscribe, verdict, code, text, result.as_bytes())
        };
        assert!(check(Verdict::Result, 0, "", "").is_ok());
        assert!(check(Verdict::Result, 0, "", "[]").is_err());
        assert!(check(Verdict::Error, 403, "no", "").is_ok());
        assert!(check(Verdict::Error, 99, "no", "").is_err());
        assert!(check(Verdict::Error, 403, "", "").is_err());
        assert!(check(Verdict::Disconnect, 4_001, "go away", "").is_ok());
        assert!(check(Verdict::Disconnect, 1_000, "go away", "").is_err());
        for text in ["", "123", "{}", &"x".repeat(124)] {
            assert!(
                check(Verdict::Disconnect, 4_001, text, "").is_err(),
                "{text}"
            );
        }
    }
}

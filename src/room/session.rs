//! One client's side of the client protocol: which command may come when.
//!
//! The session decides on the order of commands; its shard decides on permissions and carries out. It
//! holds no names and no bytes, because there is one for every connection.

use crate::base::reason::CloseReason;
use crate::wire::client::{Connect, Request};

/// What a command leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// The client answered the outstanding ping.
    Ponged,
    /// The client wants in; [`Session::connected`] or [`Session::failed`] follows.
    Connect(Connect<'a>),
    /// Anything else of a connected client.
    Serve(Request<'a>),
    /// Close the connection.
    Close(CloseReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No `connect` yet.
    Fresh,
    /// `connect` waits for a service or for homes of rooms; further commands wait with it.
    Connecting,
    /// Open; no ping is outstanding.
    Open,
    /// Open; a ping waits for its pong.
    Pinged,
    /// `connect` was answered with an error; nothing more is served.
    Failed,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Session {
    state: State,
}

impl Session {
    /// The session of a connection that has just been upgraded.
    pub fn new() -> Self {
        Self {
            state: State::Fresh,
        }
    }

    /// Whether `connect` has succeeded.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open | State::Pinged)
    }

    /// Whether `connect` waits for its outcome.
    pub fn is_connecting(&self) -> bool {
        self.state == State::Connecting
    }

    /// Whether a ping waits for its pong.
    pub fn is_pinged(&self) -> bool {
        self.state == State::Pinged
    }

    /// A ping was sent.
    pub fn pinged(&mut self) {
        assert_eq!(self.state, State::Open, "one ping outstanding at a time");
        self.state = State::Pinged;
    }

    /// `connect` has succeeded.
    pub fn connected(&mut self) {
        assert_eq!(self.state, State::Connecting, "one connect, one outcome");
        self.state = State::Open;
    }

    /// `connect` was answered with an error.
    pub fn failed(&mut self) {
        assert_eq!(self.state, State::Connecting, "one connect, one outcome");
        self.state = State::Failed;
    }

    /// Decides on a request. Must not be called while [`Session::is_connecting`].
    pub fn handle<'a>(&mut self, request: Request<'a>) -> Action<'a> {
        match (self.state, request) {
            (State::Fresh, Request::Connect(connect)) => {
                self.state = State::Connecting;
                Action::Connect(connect)
            }
            (State::Fresh | State::Connecting | State::Failed, _) | (_, Request::Connect(_)) => {
                Action::Close(CloseReason::BadRequest)
            }
            (State::Pinged, Request::Pong) => {
                self.state = State::Open;
                Action::Ponged
            }
            (State::Open, Request::Pong) => Action::Close(CloseReason::BadRequest),
            (State::Open | State::Pinged, request) => Action::Serve(request),
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect() -> Request<'static> {
        Request::Connect(Connect::default())
    }

    fn unsubscribe() -> Request<'static> {
        Request::Unsubscribe {
            channel: "a".into(),
        }
    }

    fn open() -> Session {
        let mut session = Session::new();
        assert!(matches!(session.handle(connect()), Action::Connect(_)));
        assert!(session.is_connecting() && !session.is_open());
        session.connected();
        session
    }

    #[test]
    fn the_first_command_is_connect_and_there_is_no_second() {
        let closed = Action::Close(CloseReason::BadRequest);
        for request in [unsubscribe(), Request::Pong, Request::Ping] {
            assert_eq!(Session::new().handle(request), closed);
        }
        assert_eq!(open().handle(connect()), closed);
    }

    #[test]
    fn after_an_error_reply_to_connect_nothing_is_served() {
        let mut session = Session::new();
        session.handle(connect());
        session.failed();
        for request in [connect(), unsubscribe(), Request::Pong] {
            assert_eq!(
                session.handle(request),
                Action::Close(CloseReason::BadRequest)
            );
        }
    }

    #[test]
    fn a_pong_answers_a_ping_and_nothing_else() {
        let mut session = open();
        session.pinged();
        assert_eq!(session.handle(Request::Pong), Action::Ponged);
        assert_eq!(
            session.handle(Request::Pong),
            Action::Close(CloseReason::BadRequest)
        );
    }

    #[test]
    fn commands_are_served_with_and_without_an_outstanding_ping() {
        let mut session = open();
        assert_eq!(session.handle(unsubscribe()), Action::Serve(unsubscribe()));
        session.pinged();
        assert_eq!(session.handle(unsubscribe()), Action::Serve(unsubscribe()));
        assert!(session.is_pinged(), "only a pong answers a ping");
    }
}

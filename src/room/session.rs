//! One client's side of the client protocol: what a command means in the state the session is in.
//!
//! The session decides; its shard carries out. It holds no names and no bytes, because there is one
//! for every connection.

use crate::base::reason::CloseReason;
use crate::limits::{ROOM_NAME_MAX, SUBSCRIPTIONS_PER_CONN_MAX};
use crate::wire::client::{ErrorCode, Request};
use std::borrow::Cow;

/// What the operator allows clients.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// Connect without a token.
    pub anonymous: bool,
    /// Publish to any room.
    pub publish: bool,
}

/// What a command leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// The client answered the outstanding ping.
    Ponged,
    /// The session is open: reply with the client id.
    Connect,
    /// Subscribe the connection to the room and reply when it is.
    Subscribe(Cow<'a, str>),
    /// End the subscription, if there is one, and reply.
    Unsubscribe(Cow<'a, str>),
    /// Publish the JSON document to the room and reply when it has its place.
    Publish(Cow<'a, str>, &'a str),
    /// Reply with an error; the connection lives on.
    Refuse(ErrorCode),
    /// Close the connection.
    Close(CloseReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No `connect` yet.
    Fresh,
    /// Open; no ping is outstanding.
    Open,
    /// Open; a ping waits for its pong.
    Pinged,
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
        self.state != State::Fresh
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

    /// Decides on a request of a connection that has `subscriptions` subscriptions.
    pub fn handle<'a>(
        &mut self,
        request: Request<'a>,
        policy: Policy,
        subscriptions: usize,
    ) -> Action<'a> {
        match (self.state, request) {
            (State::Fresh, Request::Connect { token: Some(_), .. }) => {
                Action::Close(CloseReason::InvalidToken)
            }
            (State::Fresh, Request::Connect { token: None, .. }) if policy.anonymous => {
                self.state = State::Open;
                Action::Connect
            }
            (State::Fresh, _) | (_, Request::Connect { .. }) => {
                Action::Close(CloseReason::BadRequest)
            }
            (State::Pinged, Request::Pong) => {
                self.state = State::Open;
                Action::Ponged
            }
            (State::Open, Request::Pong) => Action::Close(CloseReason::BadRequest),
            (
                _,
                Request::Subscribe {
                    channel,
                    token,
                    kind,
                    ..
                },
            ) => subscribe(channel, token.is_some(), kind, subscriptions),
            (_, Request::Unsubscribe { channel }) => Action::Unsubscribe(channel),
            (_, Request::Publish { channel, data }) => publish(channel, data, policy),
            (_, Request::Send { .. }) => Action::Close(CloseReason::NotAvailable),
            (_, Request::Unsupported) => Action::Refuse(ErrorCode::NotAvailable),
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

fn subscribe(channel: Cow<'_, str>, token: bool, kind: i32, subscriptions: usize) -> Action<'_> {
    if channel.len() > ROOM_NAME_MAX {
        return Action::Refuse(ErrorCode::BadRequest);
    }
    if kind != 0 {
        return Action::Refuse(ErrorCode::NotAvailable);
    }
    // Private and user-limited channels need a token that somebody can check.
    if token || channel.starts_with('$') || channel.contains('#') {
        return Action::Refuse(ErrorCode::PermissionDenied);
    }
    if subscriptions >= SUBSCRIPTIONS_PER_CONN_MAX {
        return Action::Refuse(ErrorCode::LimitExceeded);
    }
    Action::Subscribe(channel)
}

fn publish<'a>(channel: Cow<'a, str>, data: &'a str, policy: Policy) -> Action<'a> {
    if channel.len() > ROOM_NAME_MAX || data.is_empty() {
        return Action::Refuse(ErrorCode::BadRequest);
    }
    if !policy.publish || channel.starts_with('$') || channel.contains('#') {
        return Action::Refuse(ErrorCode::PermissionDenied);
    }
    Action::Publish(channel, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Policy = Policy {
        anonymous: true,
        publish: true,
    };

    fn connect(token: Option<&'static str>) -> Request<'static> {
        Request::Connect {
            token: token.map(Cow::Borrowed),
            name: None,
        }
    }

    fn subscribe_to(channel: &str) -> Request<'_> {
        Request::Subscribe {
            channel: channel.into(),
            token: None,
            recover: false,
            flag: 1,
            kind: 0,
        }
    }

    fn open() -> Session {
        let mut session = Session::new();
        assert_eq!(session.handle(connect(None), ALL, 0), Action::Connect);
        session
    }

    #[test]
    fn the_first_command_is_connect_and_there_is_no_second() {
        for request in [subscribe_to("a"), Request::Pong, Request::Unsupported] {
            assert_eq!(
                Session::new().handle(request, ALL, 0),
                Action::Close(CloseReason::BadRequest)
            );
        }
        assert_eq!(
            open().handle(connect(None), ALL, 0),
            Action::Close(CloseReason::BadRequest)
        );
    }

    #[test]
    fn anonymous_connects_need_the_operators_leave_and_no_token_passes_unchecked() {
        let nobody = Policy::default();
        let closed = |reason| Action::Close(reason);
        assert_eq!(
            Session::new().handle(connect(None), nobody, 0),
            closed(CloseReason::BadRequest)
        );
        assert_eq!(
            Session::new().handle(connect(Some("t")), ALL, 0),
            closed(CloseReason::InvalidToken)
        );
    }

    #[test]
    fn a_pong_answers_a_ping_and_nothing_else() {
        let mut session = open();
        session.pinged();
        assert_eq!(session.handle(Request::Pong, ALL, 0), Action::Ponged);
        assert_eq!(
            session.handle(Request::Pong, ALL, 0),
            Action::Close(CloseReason::BadRequest)
        );
    }

    #[test]
    fn what_needs_a_token_is_refused_without_one() {
        for channel in ["$private", "dialog#41,42", "#42"] {
            let refused = Action::Refuse(ErrorCode::PermissionDenied);
            assert_eq!(open().handle(subscribe_to(channel), ALL, 0), refused);
        }
    }

    #[test]
    fn limits_have_their_codes() {
        let long = "x".repeat(ROOM_NAME_MAX + 1);
        let mut session = open();
        assert_eq!(
            session.handle(subscribe_to(&long), ALL, 0),
            Action::Refuse(ErrorCode::BadRequest)
        );
        let full = session.handle(subscribe_to("a"), ALL, SUBSCRIPTIONS_PER_CONN_MAX);
        assert_eq!(full, Action::Refuse(ErrorCode::LimitExceeded));
        let publish = |data| Request::Publish {
            channel: "a".into(),
            data,
        };
        assert_eq!(
            session.handle(publish(""), ALL, 0),
            Action::Refuse(ErrorCode::BadRequest)
        );
        let silent = Policy {
            publish: false,
            ..ALL
        };
        assert_eq!(
            session.handle(publish("1"), silent, 0),
            Action::Refuse(ErrorCode::PermissionDenied)
        );
    }
}

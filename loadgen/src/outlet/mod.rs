//! How publications get to a server when its subscribers do not publish them: one file per way.
//!
//! The publisher's thread owns the outlet, so an outlet may block, but only in [`Outlet::wait`],
//! [`Outlet::settle`] and where the server does not take more.

mod http;
mod http_api;
mod mqtt;
mod nats;
mod nchan;
mod tcp;
mod upstream;
mod websocket;

pub(crate) use http_api::HttpApi;
pub(crate) use mqtt::MqttOutlet;
pub(crate) use nats::NatsOutlet;
pub(crate) use nchan::Nchan;
pub(crate) use upstream::UpstreamOutlet;
pub(crate) use websocket::WebSocketOutlet;

/// A connection of a publisher. Errors are in the operator's words and end the publishing.
pub(crate) trait Outlet: Send {
    /// Hands one publication over, to be sent with the next flush at the latest. With `confirm` it is
    /// answered with a [`Confirmation`]. The result counts requests from any number without gaps.
    fn send(&mut self, room: u32, payload: &[u8], confirm: Confirm) -> Result<u64, String>;

    /// Whether [`Outlet::send`] waits for the answer: the server then decides when the next one is sent.
    fn waits_for_each(&self) -> bool {
        false
    }

    /// Sends what was handed over.
    fn flush(&mut self) -> Result<(), String>;

    /// The next confirmation that is there. Refusals come for every publication.
    fn poll(&mut self) -> Result<Option<Confirmation>, String>;

    /// Waits for the next confirmation.
    fn wait(&mut self) -> Result<Confirmation, String>;

    /// Waits until the server has taken all that was sent.
    fn settle(&mut self) -> Result<(), String>;
}

/// Which answer a publication is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirm {
    /// None, where the protocol allows it.
    No,
    /// That the server has it.
    Taken,
    /// That it has its place in the room's order; as [`Confirm::Taken`] where a protocol has no such.
    Sequenced,
}

/// The answer to a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Confirmation {
    /// As [`Outlet::send`] returned.
    pub(crate) request: u64,
    /// The place in the room's order where the server tells it; or the refusal.
    pub(crate) result: Result<Option<u64>, String>,
}

impl Confirmation {
    /// The server has it, and tells no place.
    fn taken(request: u64) -> Self {
        let result = Ok(None);
        Self { request, result }
    }
}

//! What crosses cores: requests to a room's home and deliveries from it.
//!
//! A frame borrows its names and its payload, is archived straight into the bytes that a lane
//! granted, and is read in place: the archived form is checked and then seen again as the same
//! borrowed enum through `get`. Nothing is allocated and the payload is copied once, into the lane.
//!
//! The archived form exists only between threads of one process; it is no wire format.
#![allow(
    missing_docs,
    reason = "rkyv's derive leaves fields of its variants without"
)]

mod archived;
#[cfg(test)]
mod tests;

use crate::base::content::Content;
use crate::base::event::{EventKind, OrderKind, Verdict};
use crate::base::ids::{ConnId, Epoch, Offset, ViewId};
use crate::base::version::Version;
use rkyv::api::serialize_using;
use rkyv::rancor::{Failure, Strategy};
use rkyv::ser::allocator::SubAllocator;
use rkyv::ser::writer::Buffer;
use rkyv::ser::{Positional, Serializer};
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

/// A question or an order to the home of a room; some are for shards or the service thread themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
#[rkyv(archived = RequestArchive)]
pub enum Request<'a> {
    /// Give this publication an offset and spread it.
    Publish(Publish<'a>),
    /// The sending shard has subscribers of the room now; answered by [`Delivery::Interested`].
    Interest {
        /// Name of the room.
        #[rkyv(with = InlineAsBox)]
        room: &'a str,
        /// The sending shard's view of it.
        view: ViewId,
    },
    /// The sending shard has no subscribers of the room any more.
    Uninterest {
        /// Name of the room.
        #[rkyv(with = InlineAsBox)]
        room: &'a str,
        /// The view named in [`Request::Interest`].
        view: ViewId,
    },
    /// A subscriber of the sending shard is present in the room.
    Enter {
        /// Name of the room.
        #[rkyv(with = InlineAsBox)]
        room: &'a str,
        /// Who.
        conn: ConnId,
        /// Its flat client info.
        #[rkyv(with = InlineAsBox)]
        info: &'a [u8],
    },
    /// It is no longer.
    Leave {
        /// Name of the room.
        #[rkyv(with = InlineAsBox)]
        room: &'a str,
        /// Who.
        conn: ConnId,
    },
    /// A user's connection wants to be one of `most`; answered by [`Delivery::Answer`]. It gives its
    /// place back with [`Request::Leave`].
    Seat {
        /// Name of what the connections of the user are counted in.
        #[rkyv(with = InlineAsBox)]
        room: &'a str,
        /// Who.
        conn: ConnId,
        /// Connections at most.
        most: u32,
        /// Who asks.
        reply: ReplyTo,
    },
    /// Asks for past publications; answered by [`Delivery::History`].
    History {
        /// Name of the room.
        #[rkyv(with = InlineAsBox)]
        room: &'a str,
        /// Which.
        read: HistoryRead,
        /// Who asks.
        reply: ReplyTo,
    },
    /// Asks who is present; answered by [`Delivery::Presence`].
    Presence {
        /// Name of the room.
        #[rkyv(with = InlineAsBox)]
        room: &'a str,
        /// Who asks.
        reply: ReplyTo,
    },
    /// Asks how many are present; answered by [`Delivery::PresenceStats`].
    PresenceStats {
        /// Name of the room.
        #[rkyv(with = InlineAsBox)]
        room: &'a str,
        /// Who asks.
        reply: ReplyTo,
    },
    /// Drop the room's history; its position stays. Answered by [`Delivery::Done`].
    ForgetHistory {
        /// Name of the room.
        #[rkyv(with = InlineAsBox)]
        room: &'a str,
        /// Who asks.
        reply: ReplyTo,
    },
    /// Service thread to every shard: which rooms have subscribers there; answered by
    /// [`Delivery::Rooms`].
    Rooms {
        /// Glob; empty for all.
        #[rkyv(with = InlineAsBox)]
        pattern: &'a str,
        /// Who asks.
        reply: ReplyTo,
    },
    /// Shard to service thread: something that upstream services decide or are told of.
    Event(Event<'a>),
}

/// A publication on its way to the home of its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Publish<'a> {
    /// Name of the room.
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    /// What is published, as `content` says.
    #[rkyv(with = InlineAsBox)]
    pub payload: &'a [u8],
    /// What the payload is.
    pub content: Content,
    /// Spread it without keeping it in the history.
    pub skip_history: bool,
    /// Subscribers that take deltas may be sent one.
    pub delta: bool,
    /// Idempotency key.
    pub key: Option<[u8; 16]>,
    /// Flat info of the client that publishes; empty for an upstream service.
    #[rkyv(with = InlineAsBox)]
    pub info: &'a [u8],
    /// Flat tags.
    #[rkyv(with = InlineAsBox)]
    pub tags: &'a [u8],
    /// A subscriber that is not sent it.
    pub exclude: Option<Member>,
    /// Goes nowhere unless it is newer than the room's newest.
    pub version: Option<Version>,
    /// Who is told the outcome.
    pub reply: ReplyTo,
}

/// A connection of any shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Archive, Serialize)]
pub struct Member {
    /// The shard, as [`crate::base::NodeId`].
    pub node: u16,
    /// Its connection.
    pub conn: ConnId,
}

/// Which past publications are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
pub enum HistoryRead {
    /// All after this position, or none and `recovered` false.
    Recover {
        /// `None` when the client knows no epoch.
        epoch: Option<Epoch>,
        /// Last publication that the client has.
        offset: Offset,
    },
    /// The newest one, unless the client has it.
    RecoverNewest {
        /// As above.
        epoch: Option<Epoch>,
        /// As above.
        offset: Offset,
    },
    /// A page.
    Page {
        /// Publications at most.
        limit: u32,
        /// Excluded itself: later ones, or earlier ones with `reverse`.
        since: Option<Position>,
        /// Newest first.
        reverse: bool,
    },
}

/// A place in a room's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Position {
    /// `None` matches any.
    pub epoch: Option<Epoch>,
    /// The offset.
    pub offset: Offset,
}

/// What upstream services decide or are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Event<'a> {
    /// What happened.
    pub kind: EventKind,
    /// Who waits for the answer; [`ReplyTo::Nobody`] for what is only told.
    pub reply: ReplyTo,
    /// Room or method; empty where there is neither.
    #[rkyv(with = InlineAsBox)]
    pub subject: &'a str,
    /// Flat info of the client.
    #[rkyv(with = InlineAsBox)]
    pub info: &'a [u8],
    /// JSON that is kept of the connection for services only; empty for none.
    #[rkyv(with = InlineAsBox)]
    pub meta: &'a [u8],
    /// Close or unsubscribe code; 0 where there is none.
    pub code: u32,
    /// Its reason; or the client's name and version, separated by a newline, of a connect.
    #[rkyv(with = InlineAsBox)]
    pub text: &'a str,
    /// What `data` is.
    pub content: Content,
    /// The client's data.
    #[rkyv(with = InlineAsBox)]
    pub data: &'a [u8],
}

/// Where the outcome of a request goes on the node that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
pub enum ReplyTo {
    /// Nobody wants to know.
    Nobody,
    /// A request of an upstream connection.
    Upstream {
        /// Its place on the service thread.
        conn: u32,
        /// Counts the uses of that place.
        generation: u32,
        /// The upstream's request id.
        request: u64,
    },
    /// A waiting task of the service thread.
    Task {
        /// Which.
        ticket: u64,
    },
    /// A command of a client connection.
    Client {
        /// The connection on the asking shard.
        conn: ConnId,
        /// The command's id.
        command: u32,
    },
    /// A subscription that waits for what it missed.
    Subscriber {
        /// The connection on the asking shard.
        conn: ConnId,
        /// The view of the room.
        view: ViewId,
    },
    /// A connection that waits for an upstream service.
    Event {
        /// The connection on the asking shard.
        conn: ConnId,
        /// Counts the connection's events: an answer that comes late is for an earlier one.
        serial: u32,
    },
}

/// What a home, or the service thread, tells a node. Handling one never produces mesh output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
#[rkyv(archived = DeliveryArchive)]
pub enum Delivery<'a> {
    /// A publication for the subscribers of a view.
    Publication {
        /// The receiving shard's view.
        view: ViewId,
        /// Position in the room; 0 when it has none.
        offset: Offset,
        /// What the payload is.
        content: Content,
        /// It may be sent as a delta.
        delta: bool,
        /// What was published.
        #[rkyv(with = InlineAsBox)]
        payload: &'a [u8],
        /// Flat info of the client that published; empty for an upstream service.
        #[rkyv(with = InlineAsBox)]
        info: &'a [u8],
        /// Flat tags.
        #[rkyv(with = InlineAsBox)]
        tags: &'a [u8],
        /// A subscriber of the receiving shard that is not sent it.
        exclude: Option<ConnId>,
    },
    /// Somebody joined or left the room of a view.
    Membership {
        /// The receiving shard's view.
        view: ViewId,
        /// Joined; else left.
        joined: bool,
        /// Flat info of the client.
        #[rkyv(with = InlineAsBox)]
        info: &'a [u8],
    },
    /// The view receives every publication after `top`.
    Interested {
        /// The view named in [`Request::Interest`].
        view: ViewId,
        /// The room's epoch.
        epoch: Epoch,
        /// Offset of the room's last publication.
        top: Offset,
    },
    /// The publication has its place in the room.
    Published {
        /// Who asked.
        reply: ReplyTo,
        /// The room's epoch.
        epoch: Epoch,
        /// The publication's offset; 0 when the room keeps no history.
        offset: Offset,
        /// It went nowhere: its idempotency key was known and this is the place of the first one, or
        /// its version was not new and this is that of the room's last one.
        duplicate: bool,
    },
    /// The home could not take the request: its room table is full.
    Refused {
        /// Who asked.
        reply: ReplyTo,
    },
    /// Past publications.
    History {
        /// Who asked.
        reply: ReplyTo,
        /// The room's epoch.
        epoch: Epoch,
        /// Offset of the room's last publication.
        top: Offset,
        /// The position asked for is of this history, and what follows it is complete.
        recovered: bool,
        /// Flat publications, in the order asked for.
        #[rkyv(with = InlineAsBox)]
        publications: &'a [u8],
    },
    /// Who is present.
    Presence {
        /// Who asked.
        reply: ReplyTo,
        /// False when they are too many for one answer; `infos` is empty then.
        complete: bool,
        /// Flat infos of the clients.
        #[rkyv(with = InlineAsBox)]
        infos: &'a [u8],
    },
    /// How many are present.
    PresenceStats {
        /// Who asked.
        reply: ReplyTo,
        /// Connections.
        clients: u32,
        /// Distinct users.
        users: u32,
    },
    /// It is done.
    Done {
        /// Who asked.
        reply: ReplyTo,
    },
    /// Rooms with subscribers on the sending shard.
    Rooms {
        /// Who asked.
        reply: ReplyTo,
        /// False when they are too many for one answer.
        complete: bool,
        /// (name length u16, name, subscribers u32)*, little-endian.
        #[rkyv(with = InlineAsBox)]
        rooms: &'a [u8],
    },
    /// Service thread to shard: what an upstream service, or the want of one, made of an event.
    Answer(Answer<'a>),
    /// Service thread to shard: do this to a user's connections.
    Order(Order<'a>),
    /// Service thread to shard: accept no more, close all clients with code 3001. The second one,
    /// after [`Delivery::Drained`]: nothing more will come, the shard may end.
    Drain,
    /// Shard to service thread: the last connection is gone.
    Drained,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Answer<'a> {
    /// Who waits.
    pub reply: ReplyTo,
    /// What kind of answer.
    pub verdict: Verdict,
    /// Code of the error or of the close.
    pub code: u32,
    /// Its text.
    #[rkyv(with = InlineAsBox)]
    pub text: &'a str,
    /// The result, a JSON object; empty when nothing is said.
    #[rkyv(with = InlineAsBox)]
    pub result: &'a [u8],
}

/// Something to be done to the connections of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Order<'a> {
    /// What.
    pub kind: OrderKind,
    /// The user; empty where `client` says whom.
    #[rkyv(with = InlineAsBox)]
    pub user: &'a str,
    /// This connection of the receiving shard only.
    pub client: Option<ConnId>,
    /// The room of a subscription; for a disconnect, client ids to spare, a line each.
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    /// Close code.
    pub code: u32,
    /// Close reason.
    #[rkyv(with = InlineAsBox)]
    pub text: &'a str,
    /// Unix time in seconds at which it expires; 0 for never.
    pub expire_at_s: u64,
    /// Subscribe: what of the channel the client has; the rest is given to it.
    pub since: Option<Position>,
    /// Subscribe: [`crate::base::Overrides`] as their bits.
    pub overrides: u16,
    /// What `info` is.
    pub info_content: Content,
    /// `conn_info` or `chan_info`; empty for none.
    #[rkyv(with = InlineAsBox)]
    pub info: &'a [u8],
    /// What `data` is.
    pub content: Content,
    /// For the client's application.
    #[rkyv(with = InlineAsBox)]
    pub data: &'a [u8],
}

impl Request<'_> {
    /// Payload bytes of a record that surely hold this frame.
    pub(super) fn bytes_max(&self) -> usize {
        let borrowed = match self {
            Self::Publish(publish) => publish.bytes(),
            Self::Interest { room, .. }
            | Self::Uninterest { room, .. }
            | Self::Leave { room, .. }
            | Self::Seat { room, .. }
            | Self::History { room, .. }
            | Self::Presence { room, .. }
            | Self::PresenceStats { room, .. }
            | Self::ForgetHistory { room, .. } => room.len(),
            Self::Enter { room, info, .. } => room.len() + info.len(),
            Self::Rooms { pattern, .. } => pattern.len(),
            Self::Event(event) => event.bytes(),
        };
        borrowed + PADDING_MAX + size_of::<ArchivedRequest>()
    }

    /// Archives into `bytes`, at least [`Request::bytes_max`] and aligned to 16. Returns how many
    /// it used.
    pub(super) fn archive(&self, bytes: &mut [u8]) -> usize {
        archive(self, bytes)
    }
}

impl Delivery<'_> {
    /// As [`Request::bytes_max`].
    pub(super) fn bytes_max(&self) -> usize {
        let borrowed = match self {
            Self::Publication {
                payload,
                info,
                tags,
                ..
            } => payload.len() + info.len() + tags.len(),
            Self::Membership { info, .. } => info.len(),
            Self::History { publications, .. } => publications.len(),
            Self::Presence { infos, .. } => infos.len(),
            Self::Rooms { rooms, .. } => rooms.len(),
            Self::Answer(answer) => answer.text.len() + answer.result.len(),
            Self::Order(order) => order.bytes(),
            _ => 0,
        };
        borrowed + PADDING_MAX + size_of::<ArchivedDelivery>()
    }

    /// As [`Request::archive`].
    pub(super) fn archive(&self, bytes: &mut [u8]) -> usize {
        archive(self, bytes)
    }
}

impl<'a> Publish<'a> {
    /// A service's publication with nothing but a payload; nobody is told the outcome.
    pub fn plain(room: &'a str, content: Content, payload: &'a [u8]) -> Self {
        Self {
            room,
            payload,
            content,
            skip_history: false,
            delta: false,
            key: None,
            info: b"",
            tags: b"",
            exclude: None,
            version: None,
            reply: ReplyTo::Nobody,
        }
    }
}

impl Publish<'_> {
    fn bytes(&self) -> usize {
        self.room.len() + self.payload.len() + self.info.len() + self.tags.len()
    }
}

impl Event<'_> {
    fn bytes(&self) -> usize {
        let names = self.subject.len() + self.text.len();
        names + self.info.len() + self.meta.len() + self.data.len()
    }
}

impl Order<'_> {
    fn bytes(&self) -> usize {
        let names = self.user.len() + self.room.len() + self.text.len();
        names + self.info.len() + self.data.len()
    }
}

/// Bytes before the archived root, to align it.
const PADDING_MAX: usize = 8;

/// Writes the borrowed parts and then the root, which ends where the record ends.
fn archive<T>(frame: &T, bytes: &mut [u8]) -> usize
where
    T: for<'b> Serialize<Strategy<InPlace<'b>, Failure>>,
{
    let mut serializer = Serializer::new(Buffer::from(bytes), SubAllocator::empty(), ());
    serialize_using::<_, Failure>(frame, &mut serializer)
        .expect("a grant of `bytes_max` holds the frame");
    serializer.pos()
}

/// Neither allocates nor keeps a map of shared pointers: a frame has none.
type InPlace<'b> = Serializer<Buffer<'b>, SubAllocator<'b>, ()>;

/// A request in its lane.
pub type ArchivedRequest = RequestArchive<'static>;

/// A delivery in its lane.
pub type ArchivedDelivery = DeliveryArchive<'static>;

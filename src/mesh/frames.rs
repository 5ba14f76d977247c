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

use crate::base::content::{ArchivedContent, Content};
use crate::base::ids::{ArchivedConnId, ArchivedViewId, ConnId, Epoch, Offset, ViewId};
use rkyv::api::{low, serialize_using};
use rkyv::rancor::{Failure, Strategy};
use rkyv::ser::allocator::SubAllocator;
use rkyv::ser::writer::Buffer;
use rkyv::ser::{Positional, Serializer};
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

/// A question or an order to the home of a room.
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
    /// Idempotency key.
    pub key: Option<[u8; 16]>,
    /// Who publishes.
    pub publisher: Publisher<'a>,
    /// Who is told the outcome.
    pub reply: ReplyTo,
}

/// Who published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
pub enum Publisher<'a> {
    /// An upstream service; its publications carry no info.
    Upstream,
    /// A connection.
    Client {
        /// Its user, possibly empty.
        #[rkyv(with = InlineAsBox)]
        user: &'a str,
        /// Its public client id.
        #[rkyv(with = InlineAsBox)]
        client: &'a str,
    },
}

/// Where the outcome of a publication goes on the node that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
pub enum ReplyTo {
    /// The publisher asked for no acknowledgement.
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
    /// A command of a client connection.
    Client {
        /// The connection on the asking shard.
        conn: ConnId,
        /// The command's id.
        command: u32,
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
        /// Position in the room; 0 when the room keeps no history.
        offset: Offset,
        /// What the payload is.
        content: Content,
        /// What was published.
        #[rkyv(with = InlineAsBox)]
        payload: &'a [u8],
        /// Who published it.
        publisher: Publisher<'a>,
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
        /// Its idempotency key was known: this is the place of the first one.
        duplicate: bool,
    },
    /// The home could not take the publication: its room table is full.
    Refused {
        /// Who asked.
        reply: ReplyTo,
    },
    /// Service thread to shard: accept no more, close all clients with code 3001. The second one,
    /// after [`Delivery::Drained`]: nothing more will come, the shard may end.
    Drain,
    /// Shard to service thread: the last connection is gone.
    Drained,
}

impl Request<'_> {
    /// Payload bytes of a record that surely hold this frame.
    pub(super) fn bytes_max(&self) -> usize {
        let borrowed = match self {
            Self::Publish(publish) => {
                publish.room.len() + publish.payload.len() + publish.publisher.bytes()
            }
            Self::Interest { room, .. } | Self::Uninterest { room, .. } => room.len(),
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
                payload, publisher, ..
            } => payload.len() + publisher.bytes(),
            _ => 0,
        };
        borrowed + PADDING_MAX + size_of::<ArchivedDelivery>()
    }

    /// As [`Request::archive`].
    pub(super) fn archive(&self, bytes: &mut [u8]) -> usize {
        archive(self, bytes)
    }
}

impl Publisher<'_> {
    fn bytes(&self) -> usize {
        match self {
            Self::Upstream => 0,
            Self::Client { user, client } => user.len() + client.len(),
        }
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

impl ArchivedRequest {
    /// Reads a record in place, checked.
    pub(super) fn access(bytes: &[u8]) -> &Self {
        low::access::<Self, Failure>(bytes).expect("an archive made by `Request::archive`")
    }

    /// The frame as it was sent, borrowing from the lane.
    #[inline]
    pub fn get(&self) -> Request<'_> {
        match self {
            Self::Publish(publish) => Request::Publish(publish.get()),
            Self::Interest { room, view } => Request::Interest {
                room,
                view: view_id(view),
            },
            Self::Uninterest { room, view } => Request::Uninterest {
                room,
                view: view_id(view),
            },
        }
    }
}

impl ArchivedPublish<'static> {
    /// The publication as it was sent, borrowing from the lane.
    #[inline]
    pub fn get(&self) -> Publish<'_> {
        Publish {
            room: &self.room,
            payload: &self.payload,
            content: content(&self.content),
            skip_history: self.skip_history,
            key: self.key.as_ref().copied(),
            publisher: self.publisher.get(),
            reply: self.reply.get(),
        }
    }
}

impl ArchivedDelivery {
    /// Reads a record in place, checked.
    pub(super) fn access(bytes: &[u8]) -> &Self {
        low::access::<Self, Failure>(bytes).expect("an archive made by `Delivery::archive`")
    }

    /// The frame as it was sent, borrowing from the lane.
    #[inline]
    pub fn get(&self) -> Delivery<'_> {
        match self {
            Self::Publication {
                view,
                offset,
                content: kind,
                payload,
                publisher,
            } => Delivery::Publication {
                view: view_id(view),
                offset: Offset(offset.0.to_native()),
                content: content(kind),
                payload,
                publisher: publisher.get(),
            },
            Self::Interested { view, epoch, top } => Delivery::Interested {
                view: view_id(view),
                epoch: Epoch(epoch.0.to_native()),
                top: Offset(top.0.to_native()),
            },
            Self::Published {
                reply,
                epoch,
                offset,
                duplicate,
            } => Delivery::Published {
                reply: reply.get(),
                epoch: Epoch(epoch.0.to_native()),
                offset: Offset(offset.0.to_native()),
                duplicate: *duplicate,
            },
            Self::Refused { reply } => Delivery::Refused { reply: reply.get() },
            Self::Drain => Delivery::Drain,
            Self::Drained => Delivery::Drained,
        }
    }
}

impl ArchivedPublisher<'static> {
    /// The publisher, borrowing from the lane.
    #[inline]
    pub fn get(&self) -> Publisher<'_> {
        match self {
            Self::Upstream => Publisher::Upstream,
            Self::Client { user, client } => Publisher::Client { user, client },
        }
    }
}

impl ArchivedReplyTo {
    /// The address, by value.
    #[inline]
    pub fn get(&self) -> ReplyTo {
        match self {
            Self::Nobody => ReplyTo::Nobody,
            Self::Upstream {
                conn,
                generation,
                request,
            } => ReplyTo::Upstream {
                conn: conn.to_native(),
                generation: generation.to_native(),
                request: request.to_native(),
            },
            Self::Client { conn, command } => ReplyTo::Client {
                conn: conn_id(conn),
                command: command.to_native(),
            },
        }
    }
}

fn view_id(view: &ArchivedViewId) -> ViewId {
    ViewId {
        index: view.index.to_native(),
        generation: view.generation.to_native(),
    }
}

fn conn_id(conn: &ArchivedConnId) -> ConnId {
    ConnId {
        slot: conn.slot.to_native(),
        generation: conn.generation.to_native(),
    }
}

fn content(content: &ArchivedContent) -> Content {
    match content {
        ArchivedContent::Json => Content::Json,
        ArchivedContent::Text => Content::Text,
        ArchivedContent::Bytes => Content::Bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;
    use crate::mesh::ring;

    /// Archives into a ring as a lane does, and hands what is read to `check`.
    fn carried(bytes_max: usize, archive: impl Fn(&mut [u8]) -> usize, check: impl Fn(&[u8])) {
        let (mut producer, mut consumer) = ring::ring(4 * 1024 * 1024);
        let mut grant = producer.reserve(bytes_max).unwrap();
        let used = archive(&mut grant);
        grant.commit(used);
        assert!(producer.publish());
        check(&consumer.read().unwrap());
    }

    fn publishes(room: &str, payload: &[u8], check: impl Fn(Request<'_>)) {
        let conn = ConnId {
            slot: u32::MAX,
            generation: 3,
        };
        let replies = [
            ReplyTo::Nobody,
            ReplyTo::Upstream {
                conn: 1,
                generation: 2,
                request: u64::MAX,
            },
            ReplyTo::Client { conn, command: 17 },
        ];
        let publishers = [
            Publisher::Upstream,
            Publisher::Client {
                user: "",
                client: "c-1",
            },
        ];
        for reply in replies {
            for publisher in publishers {
                check(Request::Publish(Publish {
                    room,
                    payload,
                    content: Content::Text,
                    skip_history: true,
                    key: payload.len().is_multiple_of(2).then_some([9; 16]),
                    publisher,
                    reply,
                }));
            }
        }
    }

    #[test]
    fn a_request_is_read_as_it_was_sent() {
        let view = ViewId {
            index: 5,
            generation: 6,
        };
        let check = |frame: Request<'_>| {
            carried(
                frame.bytes_max(),
                |bytes| frame.archive(bytes),
                |bytes| assert_eq!(ArchivedRequest::access(bytes).get(), frame),
            );
        };
        check(Request::Interest { room: "a:b", view });
        check(Request::Uninterest { room: "ü", view });
        for length in 0..40 {
            publishes(&"r".repeat(length), &vec![0xff; 3 * length], check);
        }
    }

    #[test]
    fn a_delivery_is_read_as_it_was_sent() {
        let view = ViewId {
            index: 5,
            generation: 6,
        };
        let reply = ReplyTo::Nobody;
        let (epoch, offset) = (Epoch(77), Offset(u64::MAX));
        let frames = [
            Delivery::Publication {
                view,
                offset,
                content: Content::Bytes,
                payload: b"\x00\x01",
                publisher: Publisher::Client {
                    user: "u",
                    client: "",
                },
            },
            Delivery::Interested {
                view,
                epoch,
                top: offset,
            },
            Delivery::Published {
                reply,
                epoch,
                offset,
                duplicate: true,
            },
            Delivery::Refused { reply },
            Delivery::Drain,
            Delivery::Drained,
        ];
        for frame in frames {
            carried(
                frame.bytes_max(),
                |bytes| frame.archive(bytes),
                |bytes| assert_eq!(ArchivedDelivery::access(bytes).get(), frame),
            );
        }
    }

    #[test]
    fn the_largest_names_stay_within_the_frame_overhead() {
        let room = "r".repeat(limits::ROOM_NAME_MAX);
        let name = "n".repeat(limits::USER_NAME_MAX);
        let publisher = Publisher::Client {
            user: &name,
            client: &name,
        };
        for payload_bytes in [0, 1, 15, 16, 17, limits::UPSTREAM_FRAME_MAX] {
            let payload = vec![0; payload_bytes];
            let request = Request::Publish(Publish {
                room: &room,
                payload: &payload,
                content: Content::Json,
                skip_history: false,
                key: Some([0; 16]),
                publisher,
                reply: ReplyTo::Nobody,
            });
            let delivery = Delivery::Publication {
                view: ViewId {
                    index: 0,
                    generation: 0,
                },
                offset: Offset(1),
                content: Content::Json,
                payload: &payload,
                publisher,
            };
            for bytes_max in [request.bytes_max(), delivery.bytes_max()] {
                let taken = ring::record_bytes(bytes_max);
                assert!(taken <= payload_bytes + limits::LANE_FRAME_OVERHEAD);
            }
        }
        let largest_root = size_of::<ArchivedRequest>().max(size_of::<ArchivedDelivery>());
        assert!(largest_root <= 128, "{largest_root} bytes for every frame");
    }

    #[test]
    fn bytes_that_are_no_archive_are_refused_by_the_check() {
        let garbage = rkyv::util::Align([0xff_u8; 128]);
        let found = low::access::<ArchivedRequest, Failure>(&garbage[..]);
        assert!(found.is_err());
    }
}

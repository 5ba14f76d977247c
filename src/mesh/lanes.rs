//! A node's ends of all its lanes.
//!
//! [`mesh`] makes the ports of all nodes at once; each moves into its thread. For every ordered
//! pair of nodes there are two lanes, requests and deliveries; the parent module says why two.
//! There is no lane from a node to itself: what a room's home shard does for itself is a call.
//!
//! A frame is archived straight into its lane and becomes visible with [`Outlets::publish`], once
//! a turn. A full lane refuses the frame and says so; it never drops, waits or grows.

use super::bell::Bells;
use super::frames::{ArchivedDelivery, ArchivedRequest, Delivery, Request};
use super::ring::{self, Consumer, Producer, ReadGrant};
use crate::base::ids::NodeId;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

/// The ports of `nodes` nodes, in the order of their ids, joined by lanes of `lane_bytes` each
/// (a power of two). The lanes are address space until they are used.
pub fn mesh(nodes: u16, lane_bytes: usize) -> Vec<Port> {
    let bells = Bells::new(nodes);
    let mut ports: Vec<Port> = (0..nodes)
        .map(|node| Port::unconnected(NodeId(node), bells.clone(), lane_bytes))
        .collect();
    for source in 0..nodes {
        for target in 0..nodes {
            let joined = (source != target).then(|| {
                let (requests_in, requests_out) = ring::ring(lane_bytes);
                let (deliveries_in, deliveries_out) = ring::ring(lane_bytes);
                let outlet = Outlet {
                    requests: requests_in,
                    deliveries: deliveries_in,
                    given: false,
                };
                let inlet = Inlet {
                    requests: requests_out,
                    deliveries: deliveries_out,
                };
                (outlet, inlet)
            });
            let (outlet, inlet) = joined.unzip();
            ports[usize::from(source)].outlets.lanes.push(outlet);
            ports[usize::from(target)].inlets.lanes.push(inlet);
        }
    }
    ports
}

/// A node's ends of all its lanes.
#[derive(Debug)]
pub struct Port {
    /// The node.
    pub id: NodeId,
    /// What it receives.
    pub inlets: Inlets,
    /// What it sends.
    pub outlets: Outlets,
}

impl Port {
    fn unconnected(id: NodeId, bells: Bells, lane_bytes: usize) -> Self {
        Self {
            id,
            inlets: Inlets {
                id,
                bells: bells.clone(),
                lanes: Vec::new(),
            },
            outlets: Outlets {
                id,
                bells,
                lanes: Vec::new(),
                given: Vec::new(),
                requests_free: 0,
                deliveries_free: 0,
                plenty_bytes: lane_bytes / 2,
            },
        }
    }
}

/// The lane has no room for the frame now. Keep the frame and try again after the consumer's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneFull;

impl fmt::Display for LaneFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the lane has no room for the frame")
    }
}

impl std::error::Error for LaneFull {}

/// The sending ends of a node's lanes.
#[derive(Debug)]
pub struct Outlets {
    id: NodeId,
    bells: Bells,
    /// By target; `None` for the node itself.
    lanes: Vec<Option<Outlet>>,
    /// Targets given frames since the last publish.
    given: Vec<NodeId>,
    /// Never more than the least free bytes of any request lane: a commit lowers a lane's free
    /// bytes by at most its record, and whatever the consumers do only raises them.
    requests_free: usize,
    /// As `requests_free`.
    deliveries_free: usize,
    /// Free bytes above which nobody asks for an exact number.
    plenty_bytes: usize,
}

#[derive(Debug)]
struct Outlet {
    requests: Producer,
    deliveries: Producer,
    /// The target is in `given`.
    given: bool,
}

impl Outlets {
    /// Puts a request into the lane to `to`; visible there after [`Outlets::publish`].
    ///
    /// # Errors
    /// [`LaneFull`] when the lane has no room now; nothing happened.
    ///
    /// # Panics
    /// When `to` is this node or no node, or when the frame could not fit even an empty lane.
    pub fn request(&mut self, to: NodeId, frame: &Request<'_>) -> Result<(), LaneFull> {
        let outlet = outlet(&mut self.lanes, self.id, to);
        let taken = put(&mut outlet.requests, frame.bytes_max(), |bytes| {
            frame.archive(bytes)
        })?;
        self.requests_free = self.requests_free.saturating_sub(taken);
        if !std::mem::replace(&mut outlet.given, true) {
            self.given.push(to);
        }
        Ok(())
    }

    /// Puts a delivery into the lane to `to`; visible there after [`Outlets::publish`].
    ///
    /// # Errors
    /// [`LaneFull`] when the lane has no room now; nothing happened.
    ///
    /// # Panics
    /// As [`Outlets::request`].
    pub fn deliver(&mut self, to: NodeId, frame: &Delivery<'_>) -> Result<(), LaneFull> {
        let outlet = outlet(&mut self.lanes, self.id, to);
        let taken = put(&mut outlet.deliveries, frame.bytes_max(), |bytes| {
            frame.archive(bytes)
        })?;
        self.deliveries_free = self.deliveries_free.saturating_sub(taken);
        if !std::mem::replace(&mut outlet.given, true) {
            self.given.push(to);
        }
        Ok(())
    }

    /// Bytes that every request lane can surely take, in one frame or in several. A frame takes
    /// at most its payload and [`crate::limits::LANE_FRAME_OVERHEAD`].
    ///
    /// One comparison while there is plenty; otherwise a look at every lane.
    #[inline]
    pub fn requests_free(&mut self) -> usize {
        if self.requests_free < self.plenty_bytes {
            let lanes = self.lanes.iter_mut().flatten();
            let producers = lanes.map(|lane| &mut lane.requests);
            self.requests_free = least_free(producers, self.plenty_bytes);
        }
        self.requests_free
    }

    /// As [`Outlets::requests_free`], for the delivery lanes.
    #[inline]
    pub fn deliveries_free(&mut self) -> usize {
        if self.deliveries_free < self.plenty_bytes {
            let lanes = self.lanes.iter_mut().flatten();
            let producers = lanes.map(|lane| &mut lane.deliveries);
            self.deliveries_free = least_free(producers, self.plenty_bytes);
        }
        self.deliveries_free
    }

    /// Makes all frames given since the last call visible, and calls `ring` for each target that
    /// was given some and sleeps. The caller wakes it.
    pub fn publish(&mut self, mut ring: impl FnMut(NodeId)) {
        if self.given.is_empty() {
            return;
        }
        for outlet in self.lanes.iter_mut().flatten() {
            if std::mem::take(&mut outlet.given) {
                outlet.requests.publish();
                outlet.deliveries.publish();
            }
        }
        self.bells.order();
        for target in self.given.drain(..) {
            if self.bells.claim(target) {
                ring(target);
            }
        }
    }
}

/// The lane from `id` to `to`.
#[inline]
fn outlet(lanes: &mut [Option<Outlet>], id: NodeId, to: NodeId) -> &mut Outlet {
    assert!(id != to, "node {} has no lane to itself", id.0);
    lanes
        .get_mut(usize::from(to.0))
        .and_then(Option::as_mut)
        .unwrap_or_else(|| panic!("there is no node {}", to.0))
}

/// Reserves, archives, commits. Returns the bytes of the lane that were promised away.
#[inline]
fn put(
    lane: &mut Producer,
    bytes_max: usize,
    archive: impl FnOnce(&mut [u8]) -> usize,
) -> Result<usize, LaneFull> {
    let mut grant = lane.reserve(bytes_max).ok_or(LaneFull)?;
    let used = archive(&mut grant);
    grant.commit(used);
    Ok(ring::record_bytes(bytes_max))
}

#[cold]
fn least_free<'a>(lanes: impl Iterator<Item = &'a mut Producer>, plenty_bytes: usize) -> usize {
    lanes
        .map(|lane| match lane.free_known() {
            known if known >= plenty_bytes => known,
            _ => lane.free(),
        })
        .min()
        .unwrap_or(usize::MAX)
}

/// The receiving ends of a node's lanes.
#[derive(Debug)]
pub struct Inlets {
    id: NodeId,
    bells: Bells,
    /// By source; `None` for the node itself.
    lanes: Vec<Option<Inlet>>,
}

#[derive(Debug)]
struct Inlet {
    requests: Consumer,
    deliveries: Consumer,
}

impl Inlets {
    /// The oldest request from `from`, if there is one. Dropping the frame takes it from the lane.
    #[inline]
    pub fn next_request(&mut self, from: NodeId) -> Option<Frame<'_, ArchivedRequest>> {
        self.inlet(from)?.requests.read().map(Frame::new)
    }

    /// The oldest delivery from `from`, if there is one. Dropping the frame takes it from the lane.
    #[inline]
    pub fn next_delivery(&mut self, from: NodeId) -> Option<Frame<'_, ArchivedDelivery>> {
        self.inlet(from)?.deliveries.read().map(Frame::new)
    }

    /// Says whether no lane holds a published frame.
    pub fn is_empty(&mut self) -> bool {
        self.lanes
            .iter_mut()
            .flatten()
            .all(|inlet| inlet.requests.is_empty() && inlet.deliveries.is_empty())
    }

    /// Announces that this node is about to sleep, and looks at all lanes once more. `true`: there
    /// is nothing, and whoever publishes a frame from now on rings; sleep, then call
    /// [`Inlets::awake`]. `false`: there are frames, and the announcement is withdrawn.
    #[must_use = "a node with frames must not sleep"]
    pub fn prepare_sleep(&mut self) -> bool {
        self.bells.announce_sleep(self.id);
        let empty = self.is_empty();
        if !empty {
            self.awake();
        }
        empty
    }

    /// Ends the announcement of [`Inlets::prepare_sleep`]. Costs a store: call it only after a sleep.
    pub fn awake(&mut self) {
        self.bells.awake(self.id);
    }

    /// All nodes but this one.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> + use<> {
        let id = self.id;
        // A mesh is made for a `u16` of nodes.
        let nodes = self.lanes.len() as u16;
        (0..nodes).map(NodeId).filter(move |peer| *peer != id)
    }

    #[inline]
    fn inlet(&mut self, from: NodeId) -> Option<&mut Inlet> {
        self.lanes.get_mut(usize::from(from.0))?.as_mut()
    }
}

/// A frame on loan from its lane; dereferences to its archived form, whose `get` is the frame as
/// it was sent. Dropping it gives its bytes back to the sender.
///
/// Each dereference checks the archive: call `get` once.
#[must_use = "a frame leaves its lane when dropped"]
pub struct Frame<'a, T> {
    record: ReadGrant<'a>,
    kind: PhantomData<&'a T>,
}

impl<'a, T> Frame<'a, T> {
    #[inline]
    fn new(record: ReadGrant<'a>) -> Self {
        Self {
            record,
            kind: PhantomData,
        }
    }

    /// Gives the frame's bytes back to the sender. The same as dropping it, in words.
    pub fn release(self) {
        self.record.release();
    }
}

impl Deref for Frame<'_, ArchivedRequest> {
    type Target = ArchivedRequest;

    #[inline]
    fn deref(&self) -> &ArchivedRequest {
        ArchivedRequest::access(&self.record)
    }
}

impl Deref for Frame<'_, ArchivedDelivery> {
    type Target = ArchivedDelivery;

    #[inline]
    fn deref(&self) -> &ArchivedDelivery {
        ArchivedDelivery::access(&self.record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::content::Content;
    use crate::base::ids::{Epoch, Offset, ViewId};
    use crate::limits;
    use crate::mesh::frames::Publish;

    const LANE: usize = 4096;

    fn view(index: u32) -> ViewId {
        ViewId {
            index,
            generation: 7,
        }
    }

    fn publication(payload: &[u8]) -> Delivery<'_> {
        Delivery::Publication {
            view: view(1),
            offset: Offset(9),
            content: Content::Json,
            delta: false,
            payload,
            info: b"",
            tags: b"",
            exclude: None,
        }
    }

    fn pair() -> (Port, Port) {
        let mut ports = mesh(2, LANE).into_iter();
        (ports.next().unwrap(), ports.next().unwrap())
    }

    #[test]
    fn every_ordered_pair_has_lanes_of_its_own() {
        let mut ports = mesh(3, LANE);
        for port in &mut ports {
            let from = u32::from(port.id.0);
            for to in port.inlets.peers() {
                let epoch = Epoch(from * 10 + u32::from(to.0));
                let frame = Delivery::Interested {
                    view: view(0),
                    epoch,
                    top: Offset(0),
                };
                port.outlets.deliver(to, &frame).unwrap();
            }
            port.outlets.publish(|_| {});
        }
        for port in &mut ports {
            for from in port.inlets.peers() {
                let frame = port.inlets.next_delivery(from).unwrap();
                let Delivery::Interested { epoch, .. } = frame.get() else {
                    panic!("another frame")
                };
                assert_eq!(epoch.0, u32::from(from.0) * 10 + u32::from(port.id.0));
                frame.release();
                assert!(port.inlets.next_request(from).is_none());
            }
            assert!(port.inlets.is_empty());
        }
    }

    #[test]
    fn frames_are_seen_after_publish_and_in_order() {
        let (mut a, mut b) = pair();
        for index in 0..3 {
            let frame = Request::Interest {
                room: "news",
                view: view(index),
            };
            a.outlets.request(b.id, &frame).unwrap();
        }
        assert!(b.inlets.is_empty());
        a.outlets.publish(|_| {});
        for index in 0..3 {
            let frame = b.inlets.next_request(a.id).unwrap();
            let expected = Request::Interest {
                room: "news",
                view: view(index),
            };
            assert_eq!(frame.get(), expected);
        }
        assert!(b.inlets.next_request(a.id).is_none());
    }

    #[test]
    fn a_full_lane_refuses_and_keeps_what_it_has() {
        let (mut a, mut b) = pair();
        let payload = [1; 200];
        let mut sent = 0;
        while a.outlets.deliver(b.id, &publication(&payload)).is_ok() {
            sent += 1;
        }
        assert!(sent > 10);
        a.outlets.publish(|_| {});
        assert_eq!(
            a.outlets.deliver(b.id, &publication(&payload)),
            Err(LaneFull)
        );
        let mut received = 0;
        while let Some(frame) = b.inlets.next_delivery(a.id) {
            assert_eq!(frame.get(), publication(&payload));
            received += 1;
        }
        assert_eq!(received, sent);
        assert_eq!(a.outlets.deliver(b.id, &publication(&payload)), Ok(()));
    }

    #[test]
    fn a_full_request_lane_leaves_room_for_deliveries() {
        let (mut a, b) = pair();
        let room = "r".repeat(200);
        let frame = Request::Interest {
            room: &room,
            view: view(1),
        };
        while a.outlets.request(b.id, &frame).is_ok() {}
        assert!(a.outlets.requests_free() < 400);
        assert!(a.outlets.deliveries_free() >= LANE / 2);
        assert_eq!(a.outlets.deliver(b.id, &Delivery::Drain), Ok(()));
    }

    #[test]
    fn what_is_free_can_be_sent_to_any_peer() {
        let mut ports = mesh(3, 32 * LANE);
        let payload = [7; 100];
        let cost = payload.len() + limits::LANE_FRAME_OVERHEAD;
        let mut turns_with_room = 0;
        for turn in 0..2_000_usize {
            let to = NodeId(1 + (turn % 3 / 2) as u16);
            let free = ports[0].outlets.deliveries_free();
            for _ in 0..free / cost {
                turns_with_room += 1;
                let sent = ports[0].outlets.deliver(to, &publication(&payload));
                assert_eq!(sent, Ok(()), "turn {turn}, free {free}");
            }
            ports[0].outlets.publish(|_| {});
            for _ in 0..turn % 5 {
                let _ = ports[usize::from(to.0)].inlets.next_delivery(NodeId(0));
            }
        }
        assert!(turns_with_room > 100);
    }

    #[test]
    fn a_sleeper_with_mail_is_rung_once() {
        let mut ports = mesh(3, LANE);
        let sleeper = ports[2].id;
        let mut rung = Vec::new();
        assert!(ports[2].inlets.prepare_sleep());
        for port in &mut ports[..2] {
            let sent = port.outlets.deliver(sleeper, &Delivery::Drain);
            assert_eq!(sent, Ok(()));
            port.outlets.publish(|node| rung.push((port.id, node)));
        }
        assert_eq!(rung, [(NodeId(0), sleeper)]);
        ports[2].inlets.awake();
        assert!(!ports[2].inlets.prepare_sleep());
    }

    #[test]
    fn a_node_that_is_awake_or_has_no_mail_is_not_rung() {
        let mut ports = mesh(3, LANE);
        assert!(ports[2].inlets.prepare_sleep());
        assert_eq!(
            ports[0].outlets.deliver(NodeId(1), &Delivery::Drained),
            Ok(())
        );
        ports[0].outlets.publish(|node| panic!("rang {node:?}"));
        assert!(!ports[1].inlets.prepare_sleep());
        ports[2].inlets.awake();
        assert_eq!(
            ports[0].outlets.deliver(NodeId(2), &Delivery::Drained),
            Ok(())
        );
        ports[0].outlets.publish(|node| panic!("rang {node:?}"));
    }

    #[test]
    #[should_panic(expected = "node 0 has no lane to itself")]
    fn a_request_to_oneself_is_a_bug() {
        let (mut a, _b) = pair();
        let frame = Request::Uninterest {
            room: "news",
            view: view(0),
        };
        let _ = a.outlets.request(NodeId(0), &frame);
    }

    #[test]
    fn the_largest_frame_fits_an_empty_lane_of_the_broker() {
        let mut ports = mesh(2, limits::LANE_BYTES);
        let info = vec![0; limits::FLAT_INFO_MAX];
        let tags = vec![0; limits::TAGS_BYTES_MAX];
        let room = "r".repeat(limits::ROOM_NAME_MAX);
        let payload = vec![b'1'; limits::UPSTREAM_FRAME_MAX];
        let frame = Request::Publish(Publish {
            skip_history: true,
            key: Some([3; 16]),
            info: &info,
            tags: &tags,
            ..Publish::plain(&room, Content::Bytes, &payload)
        });
        for _ in 0..20 {
            assert_eq!(ports[0].outlets.request(NodeId(1), &frame), Ok(()));
            ports[0].outlets.publish(|_| {});
            let read = ports[1].inlets.next_request(NodeId(0)).unwrap();
            assert_eq!(read.get(), frame);
        }
    }
}

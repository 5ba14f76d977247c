//! A publication's way from its home to every shard with subscribers, and into their tails.

use super::conn::Conn;
use super::core::Core;
use crate::base::chunk::{ChunkPool, Part};
use crate::base::reason::CloseReason;
use crate::base::slab::PagedMap;
use crate::base::{ConnId, Content, NodeId, Offset, ViewId};
use crate::mesh::{Delivery, Publish};
use crate::room::tail::TailLimits;
use crate::room::view::{LineKind, Taken, View};
use crate::wire::client::{
    ClientInfo, Data, Encoding, Publication, Push, Tags, flat, json, write_push,
};
use crate::wire::fossil;
use crate::wire::frame::{Opcode, server_header};

impl Core {
    /// One delivery for each interested shard; this one's own view is called directly.
    pub(super) fn spread(
        &mut self,
        index: u32,
        generation: u32,
        offset: Offset,
        publish: &Publish<'_>,
    ) {
        let home = self
            .homes
            .get(index, generation)
            .expect("sequenced just now");
        let options = self.settings.namespaces.options(home.namespace);
        let delivery = |node: NodeId, view: ViewId| Delivery::Publication {
            view,
            offset,
            content: publish.content,
            delta: publish.delta || options.delta_publish,
            payload: publish.payload,
            info: publish.info,
            tags: publish.tags,
            exclude: publish
                .exclude
                .filter(|member| member.node == node.0)
                .map(|member| member.conn),
        };
        let mut local = None;
        for (node, view) in home.interested().iter().copied() {
            if node == self.settings.node {
                local = Some(delivery(node, view));
                continue;
            }
            let sent = self.outlets.deliver(node, &delivery(node, view));
            sent.expect("publications are taken only while delivery lanes have room");
        }
        if let Some(delivery) = local {
            self.handle_delivery(delivery);
        }
    }

    /// Encodes a publication once for each line and marks every local subscriber.
    pub(super) fn deliver(&mut self, id: ViewId, delivery: &Delivery<'_>) {
        let Delivery::Publication {
            offset,
            content,
            delta,
            payload,
            mut info,
            tags,
            exclude,
            ..
        } = *delivery
        else {
            return;
        };
        let Some(view) = self.live_view(id) else {
            return;
        };
        view.advance(offset);
        let namespace = view.namespace;
        let has_history = self.settings.namespaces.options(namespace).has_history();
        let data = Data {
            content,
            bytes: payload,
        };
        let publication = Publication {
            offset: if has_history { offset.0 } else { 0 },
            data,
            info: flat::take_info(&mut info),
            tags: Tags::from_flat(tags),
            delta: false,
        };
        self.encoded.begin();
        let excluded = exclude.and_then(|conn| self.pass_over_begin(conn, id));
        let limits = self.tail_limits();
        let (mut deliveries, mut filtered, mut slow) = (0, 0, Vec::new());
        let Self {
            views,
            conns,
            controls,
            encoded,
            pool,
            dirty,
            ..
        } = self;
        let view = views.get_mut(id.index, id.generation).expect("seen above");
        for at in 0..view.lines().len() {
            let line = &view.lines()[at];
            let subscribers = line.subscribers().len() as u64;
            if subscribers == 0 {
                continue;
            }
            if !line.wants(publication.tags) {
                filtered += subscribers;
                continue;
            }
            let kind = line.kind();
            let is_delta = encoded.make(kind, view, &publication, delta);
            if is_delta && view.lines()[at].has_fresh() {
                encoded.make_full(kind, view.room(), &publication);
                let except = excluded.filter(|(left_out, _)| *left_out == kind);
                let except = except.map(|(_, index)| index);
                let full = encoded.full();
                slow.extend(give_full(view, at, except, full, conns, controls, pool));
            }
            let bytes = encoded.bytes(kind);
            let (header, len) = server_header(opcode(kind.encoding), bytes.len());
            let now = (self.turn, self.now_ms);
            view.append(at, (&header[..len], bytes), now, limits, pool);
            if is_delta {
                skip_fresh(view, at, pool);
            }
            view.ripen_all(at);
            for subscriber in view.lines()[at].subscribers() {
                dirty.mark(subscriber.slot);
            }
            let is_of_excluded = excluded.is_some_and(|(of_excluded, _)| of_excluded == kind);
            deliveries += subscribers - u64::from(is_of_excluded);
        }
        view.remember(offset, data);
        if let Some((kind, index)) = excluded {
            view.leave_out(kind, index, pool);
        }
        self.stats.shard.deliveries_total.add(deliveries);
        self.stats.shard.filtered_total.add(filtered);
        for slot in slow {
            self.close(slot, CloseReason::Slow);
        }
    }

    /// Somebody joined or left: those who want to know are told.
    pub(super) fn deliver_membership(&mut self, id: ViewId, joined: bool, mut info: &[u8]) {
        let limits = self.tail_limits();
        if self.live_view(id).is_none() {
            return;
        }
        let Some(info) = flat::take_info(&mut info) else {
            return;
        };
        let view = self
            .views
            .get_mut(id.index, id.generation)
            .expect("seen above");
        for at in 0..view.lines().len() {
            let line = &view.lines()[at];
            let kind = line.kind();
            if !kind.members || line.subscribers().is_empty() {
                continue;
            }
            self.scratch.clear();
            let push = membership(joined, &info);
            write_push(kind.encoding, &mut self.scratch, view.room(), &push);
            let (header, len) = server_header(opcode(kind.encoding), self.scratch.len());
            let frame = (&header[..len], &self.scratch[..]);
            view.append(at, frame, (self.turn, self.now_ms), limits, &mut self.pool);
            for subscriber in view.lines()[at].subscribers() {
                self.dirty.mark(subscriber.slot);
            }
        }
    }

    /// A view that the home sends to; anything for another is of an earlier one.
    fn live_view(&mut self, id: ViewId) -> Option<&mut View> {
        let view = self.views.get_mut(id.index, id.generation);
        let live = view.filter(|view| view.is_live());
        if live.is_none() {
            self.stats.shard.stale_deliveries_total.add(1);
        }
        live
    }

    fn tail_limits(&self) -> TailLimits {
        if self.pool.outstanding() > self.settings.tails_bytes {
            return TailLimits {
                bytes: 0,
                ..self.settings.tail
            };
        }
        self.settings.tail
    }

    /// Moves what a subscriber still has to be sent of a room to its own buffer, so that the next push
    /// of the room can be passed over for it. Its line and index, unless it has lost data anyway.
    fn pass_over_begin(&mut self, conn: ConnId, id: ViewId) -> Option<(LineKind, u32)> {
        let Self {
            conns,
            views,
            controls,
            pool,
            dirty,
            ..
        } = self;
        let conn = conns.get_mut(conn.slot).filter(|found| found.id == conn)?;
        let sub = conn.sub(id).copied().filter(|sub| !sub.is_waiting())?;
        let view = views.get_mut(id.index, id.generation)?;
        let (kind, index) = (sub.flags.kind(), sub.place);
        let mut parts = Vec::new();
        if view.take(kind, index, usize::MAX, &mut parts, pool) != Taken::All {
            return None;
        }
        dirty.mark(conn.id.slot);
        append_parts(&parts, conn, controls).then_some((kind, index))
    }
}

/// A publication in the encodings and forms that lines want, each made once.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    /// By encoding and delta.
    forms: [Form; 4],
    /// The whole publication for subscribers that a delta is of no use to.
    full: Vec<u8>,
    patch: Vec<u8>,
    base: Vec<u8>,
    target: Vec<u8>,
    fossil: fossil::Scratch,
}

#[derive(Debug, Default)]
struct Form {
    bytes: Vec<u8>,
    state: Made,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Made {
    #[default]
    Not,
    Full,
    Delta,
}

impl Encoded {
    fn begin(&mut self) {
        self.forms
            .iter_mut()
            .for_each(|form| form.state = Made::Not);
    }

    /// Makes the form that a line of this kind is sent; whether it is a delta.
    fn make(
        &mut self,
        kind: LineKind,
        view: &View,
        publication: &Publication<'_>,
        may_delta: bool,
    ) -> bool {
        let at = form_of(kind);
        if self.forms[at].state == Made::Not {
            let previous = view.previous().filter(|_| may_delta && kind.delta);
            let is_delta = previous.is_some_and(|previous| {
                self.make_patch(kind.encoding, previous.data(), publication)
            });
            let mut bytes = std::mem::take(&mut self.forms[at].bytes);
            bytes.clear();
            if is_delta {
                let content = match kind.encoding {
                    Encoding::Json => Content::Text,
                    Encoding::Protobuf => Content::Bytes,
                };
                let patched = Publication {
                    data: Data {
                        content,
                        bytes: &self.patch,
                    },
                    delta: true,
                    ..*publication
                };
                write_push(
                    kind.encoding,
                    &mut bytes,
                    view.room(),
                    &Push::Publication(&patched),
                );
            } else {
                self.write_full(kind, view.room(), publication, &mut bytes);
            }
            self.forms[at].bytes = bytes;
            self.forms[at].state = if is_delta { Made::Delta } else { Made::Full };
        }
        self.forms[at].state == Made::Delta
    }

    fn make_full(&mut self, kind: LineKind, room: &str, publication: &Publication<'_>) {
        let mut full = std::mem::take(&mut self.full);
        full.clear();
        self.write_full(kind, room, publication, &mut full);
        let (header, len) = server_header(opcode(kind.encoding), full.len());
        full.splice(0..0, header[..len].iter().copied());
        self.full = full;
    }

    /// The last full form, with its frame header.
    fn full(&self) -> &[u8] {
        &self.full
    }

    fn bytes(&self, kind: LineKind) -> &[u8] {
        &self.forms[form_of(kind)].bytes
    }

    /// Without delta. JSON clients that take deltas get all data as a string.
    fn write_full(
        &mut self,
        kind: LineKind,
        room: &str,
        publication: &Publication<'_>,
        out: &mut Vec<u8>,
    ) {
        if !kind.delta || kind.encoding == Encoding::Protobuf {
            return write_push(kind.encoding, out, room, &Push::Publication(publication));
        }
        self.target.clear();
        json::write_data(&mut self.target, publication.data);
        let text = Publication {
            data: Data {
                content: Content::Text,
                bytes: &self.target,
            },
            ..*publication
        };
        write_push(kind.encoding, out, room, &Push::Publication(&text));
    }

    /// Makes the patch from the previous payload, as clients of this encoding see payloads; whether it
    /// is worth sending.
    fn make_patch(
        &mut self,
        encoding: Encoding,
        previous: Data<'_>,
        publication: &Publication<'_>,
    ) -> bool {
        self.patch.clear();
        let (base, target) = match encoding {
            Encoding::Protobuf => (previous.bytes, publication.data.bytes),
            Encoding::Json => {
                self.base.clear();
                json::write_data(&mut self.base, previous);
                self.target.clear();
                json::write_data(&mut self.target, publication.data);
                (&self.base[..], &self.target[..])
            }
        };
        fossil::delta(base, target, &mut self.patch, &mut self.fossil);
        self.patch.len() < target.len()
    }
}

fn form_of(kind: LineKind) -> usize {
    usize::from(kind.encoding == Encoding::Protobuf) | usize::from(kind.delta) << 1
}

pub(super) fn opcode(encoding: Encoding) -> Opcode {
    match encoding {
        Encoding::Json => Opcode::Text,
        Encoding::Protobuf => Opcode::Binary,
    }
}

fn membership<'a>(joined: bool, info: &'a ClientInfo<'a>) -> Push<'a> {
    match joined {
        true => Push::Join(info),
        false => Push::Leave(info),
    }
}

/// Gives the whole publication to the subscribers of a line that cannot use the delta, behind what
/// they still have to be sent; `except` is the index of one that is not to get it. The slots of those
/// that read too slowly for it.
fn give_full(
    view: &mut View,
    at: usize,
    except: Option<u32>,
    full: &[u8],
    conns: &mut PagedMap<Conn>,
    controls: &mut ChunkPool,
    pool: &mut ChunkPool,
) -> Vec<u32> {
    let (kind, mut slow) = (view.lines()[at].kind(), Vec::new());
    for index in 0..view.lines()[at].subscribers().len() {
        let subscriber = view.lines()[at].subscribers()[index];
        if !subscriber.fresh || except == Some(index as u32) {
            continue;
        }
        let mut parts = Vec::new();
        let Some(conn) = conns.get_mut(subscriber.slot) else {
            continue;
        };
        let all = view.take(kind, index as u32, usize::MAX, &mut parts, pool) == Taken::All;
        let given = all
            && append_parts(&parts, conn, controls)
            && conn.control.append(full, controls).is_ok();
        if !given {
            slow.push(subscriber.slot);
        }
    }
    slow
}

/// Moves the cursors of those who were given the whole publication behind the delta.
fn skip_fresh(view: &mut View, at: usize, pool: &mut ChunkPool) {
    if !view.lines()[at].has_fresh() {
        return;
    }
    let kind = view.lines()[at].kind();
    for index in 0..view.lines()[at].subscribers().len() {
        if view.lines()[at].subscribers()[index].fresh {
            view.pass_over(kind, index as u32, pool);
        }
    }
}

/// Appends bytes of a tail to a connection's own buffer; false when that is full.
fn append_parts(parts: &[Part], conn: &mut Conn, controls: &mut ChunkPool) -> bool {
    let mut bytes = Vec::new();
    parts.iter().for_each(|part| part.copy_to(&mut bytes));
    bytes.is_empty() || conn.control.append(&bytes, controls).is_ok()
}

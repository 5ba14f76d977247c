//! What homes and the service thread are told as soon as lanes have room.
//!
//! Closing a connection, a timer or an order may happen when lanes are full, so what they lead to waits
//! here, in one queue: a home hears of a view before it is asked for what a subscriber of it missed,
//! and of a subscriber's leave after its enter. The queue is bounded by the subscriptions that there
//! are and were.

use super::conn::Conn;
use super::core::Core;
use super::identity::{Blob, Pending};
use super::settings::Settings;
use crate::base::stats::Stats;
use crate::base::{ConnId, Content, EventKind, NodeId, Version, ViewId};
use crate::limits::COMMAND_OUTPUT_MAX;
use crate::mesh::{Event, HistoryRead, Outlets, ReplyTo, Request};
use crate::room::view::Standing;

/// See the module documentation.
#[derive(Debug)]
pub(super) enum Notice {
    /// The view is new, or has no subscribers any more.
    View(ViewId),
    /// A subscriber waits for what it missed.
    Read {
        conn: ConnId,
        view: ViewId,
        read: HistoryRead,
    },
    /// A subscriber is present.
    Enter { conn: ConnId, view: ViewId },
    /// A connection asks for one of its user's places.
    Seat {
        conn: ConnId,
        serial: u32,
        room: Box<str>,
    },
    /// It is no longer. The view may be gone by then, so the room has its name.
    Leave { conn: ConnId, room: Box<str> },
    /// Services decide or are told.
    Event(Box<OwnedEvent>),
    /// A client's publication that a service has let pass.
    Publish(Box<OwnedPublish>),
}

/// A publication that waits.
#[derive(Debug)]
pub(super) struct OwnedPublish {
    conn: ConnId,
    command: u32,
    room: Box<str>,
    data: Blob,
    extras: Extras,
}

/// What a service may set of a client's publication.
#[derive(Debug)]
pub(super) struct Extras {
    pub(super) skip_history: bool,
    /// Flat.
    pub(super) tags: Box<[u8]>,
    pub(super) key: Option<[u8; 16]>,
    pub(super) delta: bool,
    pub(super) version: Option<Version>,
}

/// An event that waits.
#[derive(Debug)]
pub(super) struct OwnedEvent {
    pub(super) kind: EventKind,
    pub(super) reply: ReplyTo,
    pub(super) subject: Box<str>,
    /// Flat info of the client.
    pub(super) info: Box<[u8]>,
    /// Copied here because the connection may be gone, or have another one, when there is room.
    pub(super) meta: Box<[u8]>,
    pub(super) code: u32,
    pub(super) text: Box<str>,
}

impl Core {
    /// Has the home told of the view in this turn or as soon as its lane has room.
    pub(super) fn queue_notice(&mut self, id: ViewId) {
        let view = self
            .views
            .get_mut(id.index, id.generation)
            .expect("notices are of live views");
        if !view.notice_queued {
            view.notice_queued = true;
            self.notices.push_back(Notice::View(id));
        }
    }

    /// Has the home told that a subscriber has left.
    pub(super) fn queue_left(&mut self, slot: u32, view: ViewId) {
        let (Some(conn), Some(view)) = (
            self.conns.get(slot),
            self.views.get(view.index, view.generation),
        ) else {
            return;
        };
        self.notices.push_back(Notice::Leave {
            conn: conn.id,
            room: view.room().into(),
        });
    }

    /// Has services told that a connection is gone.
    pub(super) fn queue_disconnected(&mut self, slot: u32, code: u32, text: &str) {
        self.queue_event(EventKind::Disconnect, slot, "", code, text);
    }

    /// Has services told that a subscription has ended.
    pub(super) fn queue_unsubscribed(&mut self, slot: u32, view: ViewId, code: u32, text: &str) {
        if let Some(view) = self.views.get(view.index, view.generation) {
            let room: Box<str> = view.room().into();
            self.queue_event(EventKind::Unsubscribe, slot, &room, code, text);
        }
    }

    /// Publishes in a client's name as soon as lanes have room.
    pub(super) fn publish_later(
        &mut self,
        slot: u32,
        command: u32,
        room: &str,
        data: Blob,
        extras: Extras,
    ) {
        if let Some(conn) = self.conns.get(slot) {
            self.notices
                .push_back(Notice::Publish(Box::new(OwnedPublish {
                    conn: conn.id,
                    command,
                    room: room.into(),
                    data,
                    extras,
                })));
        }
    }

    /// Has the home count a subscriber as present.
    pub(super) fn queue_enter(&mut self, slot: u32, view: ViewId) {
        if let Some(conn) = self.conns.get(slot) {
            self.notices.push_back(Notice::Enter {
                conn: conn.id,
                view,
            });
        }
    }

    /// Asks services how long a connection, or its subscription to `subject`, lives on.
    pub(super) fn queue_refresh(&mut self, slot: u32, view: Option<ViewId>) {
        let subject: Box<str> = view
            .and_then(|view| self.views.get(view.index, view.generation))
            .map_or("", |view| view.room())
            .into();
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        let id = conn.id;
        let (kind, pending) = match view {
            None => (EventKind::Refresh, Pending::Refresh { command: 0 }),
            Some(view) => (EventKind::SubRefresh, Pending::SubRefresh { view }),
        };
        let serial = conn.extra().expect(pending);
        let info = self.flat_info(slot, view).as_slice().into();
        let meta = self.meta_of(slot).into();
        self.notices.push_back(Notice::Event(Box::new(OwnedEvent {
            kind,
            reply: ReplyTo::Event { conn: id, serial },
            subject,
            info,
            meta,
            code: 0,
            text: "".into(),
        })));
    }

    fn queue_event(&mut self, kind: EventKind, slot: u32, subject: &str, code: u32, text: &str) {
        let info = self.flat_info(slot, None).as_slice().into();
        let meta = self.meta_of(slot).into();
        self.notices.push_back(Notice::Event(Box::new(OwnedEvent {
            kind,
            reply: ReplyTo::Nobody,
            subject: subject.into(),
            info,
            meta,
            code,
            text: text.into(),
        })));
    }

    fn meta_of(&self, slot: u32) -> &[u8] {
        self.conns.get(slot).map_or(b"", Conn::meta)
    }

    /// Sends what waits, in its order; false when lanes had no room for all.
    pub(super) fn send_notices(&mut self) -> bool {
        while !self.notices.is_empty() {
            if !self.has_room(COMMAND_OUTPUT_MAX) {
                return false;
            }
            match self.notices.pop_front() {
                None => break,
                Some(Notice::View(id)) => self.tell_of_view(id),
                Some(Notice::Read { conn, view, read }) => {
                    self.ask_what_was_missed(conn, view, read)
                }
                Some(Notice::Enter { conn, view }) => self.tell_of_enter(conn, view),
                Some(Notice::Leave { conn, room }) => {
                    self.ask(&room, &Request::Leave { room: &room, conn });
                }
                Some(Notice::Seat { conn, serial, room }) => self.ask_for_seat(conn, serial, &room),
                Some(Notice::Event(event)) => self.send_owned_event(&event),
                Some(Notice::Publish(publish)) => self.send_owned_publish(&publish),
            }
        }
        true
    }

    fn tell_of_view(&mut self, id: ViewId) {
        let Some(view) = self.views.get_mut(id.index, id.generation) else {
            return;
        };
        view.notice_queued = false;
        match (view.standing(), view.is_empty()) {
            (Standing::Unannounced, false) => {
                view.announced();
                let room: Box<str> = view.room().into();
                self.ask(
                    &room,
                    &Request::Interest {
                        room: &room,
                        view: id,
                    },
                );
            }
            (Standing::Unannounced, true) => {
                self.views.remove(id.index, id.generation);
            }
            (_, true) => {
                let view = self
                    .views
                    .remove(id.index, id.generation)
                    .expect("seen above");
                let room = view.room();
                self.ask(room, &Request::Uninterest { room, view: id });
            }
            (_, false) => {}
        }
    }

    fn ask_what_was_missed(&mut self, conn: ConnId, id: ViewId, read: HistoryRead) {
        let waits = self
            .conns
            .get(conn.slot)
            .filter(|found| found.id == conn)
            .and_then(|found| found.sub(id));
        if !waits.is_some_and(|sub| sub.is_recovering()) {
            return;
        }
        let Some(view) = self.views.get(id.index, id.generation) else {
            return;
        };
        let room: Box<str> = view.room().into();
        let reply = ReplyTo::Subscriber { conn, view: id };
        self.ask(
            &room,
            &Request::History {
                room: &room,
                read,
                reply,
            },
        );
    }

    fn tell_of_enter(&mut self, conn: ConnId, id: ViewId) {
        let found = self.conns.get(conn.slot).filter(|found| found.id == conn);
        let subscribes = found.is_some_and(|found| found.sub(id).is_some());
        let view = self.views.get(id.index, id.generation);
        let Some(view) = view.filter(|_| subscribes) else {
            return;
        };
        let room: Box<str> = view.room().into();
        let flat = std::mem::take(self.flat_info(conn.slot, Some(id)));
        self.ask(
            &room,
            &Request::Enter {
                room: &room,
                conn,
                info: &flat,
            },
        );
        self.flat = flat;
    }

    fn ask_for_seat(&mut self, conn: ConnId, serial: u32, room: &str) {
        if self.is_open(conn) {
            let seat = Request::Seat {
                room,
                conn,
                most: self.settings.clients.user_connections_max,
                reply: ReplyTo::Event { conn, serial },
            };
            if let Some(extra) = self
                .conns
                .get_mut(conn.slot)
                .and_then(|conn| conn.extra.as_mut())
            {
                // From here on the place has to be given back, whether it was taken or not.
                extra.seated = true;
            }
            self.ask(room, &seat);
        }
    }

    fn send_owned_event(&mut self, event: &OwnedEvent) {
        let event = Event {
            kind: event.kind,
            reply: event.reply,
            subject: &event.subject,
            info: &event.info,
            meta: &event.meta,
            code: event.code,
            text: &event.text,
            content: Content::Json,
            data: b"",
        };
        hand_over(&mut self.outlets, &self.settings, &self.stats, event);
    }

    fn send_owned_publish(&mut self, owned: &OwnedPublish) {
        if !self.is_open(owned.conn) {
            return;
        }
        let (slot, command) = (owned.conn.slot, owned.command);
        let (data, extras) = (owned.data.data(), Some(&owned.extras));
        self.publish_for(slot, command, &owned.room, data, extras);
    }

    /// Hands an event of a connection to the service thread; its meta is filled in here. Room was
    /// checked by the caller.
    pub(super) fn send_event(&mut self, slot: u32, event: Event<'_>) {
        let meta = self.conns.get(slot).map_or(&b""[..], Conn::meta);
        let event = Event { meta, ..event };
        hand_over(&mut self.outlets, &self.settings, &self.stats, event);
    }

    /// Sends a request to the home of `room`, or handles it when that is here. Room was checked by the
    /// caller.
    pub(super) fn ask(&mut self, room: &str, request: &Request<'_>) {
        let (home, here) = (self.settings.hasher.home(room), self.settings.node);
        if home == here {
            self.handle_request(*request, here);
        } else {
            let sent = self.outlets.request(home, request);
            sent.expect("requests are sent only while lanes have room");
        }
    }
}

/// Puts an event into the lane to the service thread, which has room for it.
fn hand_over(outlets: &mut Outlets, settings: &Settings, stats: &Stats, event: Event<'_>) {
    stats.shard.events_sent_total.add(1);
    let service = NodeId(settings.shards);
    let sent = outlets.request(service, &Request::Event(event));
    sent.expect("events are sent only while lanes have room");
}

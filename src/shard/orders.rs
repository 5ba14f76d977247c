//! What services and operators order for the connections of a user. Carrying it out produces no mesh
//! output at once: what it leads to waits for lane room.

use super::core::Core;
use super::identity::{Blob, Start};
use crate::base::reason::{CloseReason, Unsubscribed};
use crate::base::{Offset, OrderKind, Overrides};
use crate::mesh::Order;
use crate::wire::client::{Data, Push};

impl Core {
    pub(super) fn order(&mut self, order: &Order<'_>) {
        for slot in self.ordered(order) {
            match order.kind {
                OrderKind::Disconnect => self.order_disconnect(slot, order),
                OrderKind::Subscribe => self.order_subscribe(slot, order),
                OrderKind::Unsubscribe => self.order_unsubscribe(slot, order.room),
                OrderKind::Refresh => self.order_refresh(slot, order),
                OrderKind::Expire => self.close(slot, CloseReason::Expired),
                OrderKind::Message => {
                    let data = Data {
                        content: order.content,
                        bytes: order.data,
                    };
                    self.push(slot, "", &Push::Message(data));
                }
            }
        }
    }

    /// The connections that an order is for. The user has to be right where one is named.
    fn ordered(&self, order: &Order<'_>) -> Vec<u32> {
        match order.client {
            None => self.users.slots(order.user).to_vec(),
            Some(id) => {
                let conn = self.conns.get(id.slot).filter(|conn| conn.id == id);
                let conn = conn.filter(|conn| {
                    conn.is_connected() && (order.user.is_empty() || order.user == conn.user())
                });
                conn.map(|conn| conn.id.slot).into_iter().collect()
            }
        }
    }

    fn order_disconnect(&mut self, slot: u32, order: &Order<'_>) {
        let Some(conn) = self.conns.get(slot) else {
            return;
        };
        let client = self.client_id(conn.id);
        if order.room.lines().any(|spared| spared == client.as_str()) {
            return;
        }
        let code = u16::try_from(order.code).unwrap_or(3503);
        self.close_with(slot, CloseReason::Ordered, code, order.text);
    }

    fn order_subscribe(&mut self, slot: u32, order: &Order<'_>) {
        if self.has_place(slot, order.room).is_err() || self.namespace_of(order.room).is_err() {
            return;
        }
        let (epoch, offset) = order
            .since
            .map_or((None, Offset(0)), |since| (since.epoch, since.offset));
        self.start_server_side(
            slot,
            Start {
                room: order.room.into(),
                server_side: true,
                positioned: true,
                recoverable: true,
                recover: order.since.is_some(),
                epoch,
                offset,
                overrides: Overrides::from_bits(order.overrides),
                expire_at_s: order.expire_at_s,
                chan_info: Blob::new(order.info_content, order.info),
                data: Blob::new(order.content, order.data),
                ..Start::default()
            },
        );
    }

    fn order_unsubscribe(&mut self, slot: u32, room: &str) {
        if !room.is_empty() {
            if let Some(view) = self.view_named(room) {
                self.end_sub(slot, view, Unsubscribed::ByServer);
            }
            return;
        }
        let subs = self.conns.get(slot).map(|conn| conn.subs.clone());
        for sub in subs.unwrap_or_default() {
            self.end_sub(slot, sub.view, Unsubscribed::ByServer);
        }
    }

    fn order_refresh(&mut self, slot: u32, order: &Order<'_>) {
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        let extra = conn.extra();
        extra.expire_at_s = order.expire_at_s;
        if !order.info.is_empty() {
            extra.conn_info = Blob::new(order.info_content, order.info);
        }
        self.arm_expiry(slot);
        let ttl_s = self.told_ttl_s(order.expire_at_s);
        self.push(slot, "", &Push::Refresh { ttl_s });
    }
}

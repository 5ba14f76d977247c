//! Sockets in and out of the simulated file table, and doorbells.

use super::super::Token;
use super::kernel::{Event, Kernel, Signal, StreamId};
use crate::base::ConnId;
use rustix::io::Errno;
use std::collections::VecDeque;

impl Kernel {
    pub(super) fn wake_accept(&mut self, node: u16) {
        let state = self.node(node);
        let waiting = state.accepts.iter().any(|entry| entry.waiting.is_some());
        if waiting && !state.backlog.is_empty() && !state.accept_scheduled {
            state.accept_scheduled = true;
            self.start(Event::Accept(node));
        }
    }

    pub(super) fn accept(&mut self, node: u16) {
        self.node(node).accept_scheduled = false;
        let accepts = self.node(node).accepts.iter().enumerate();
        let waiting: Vec<usize> = accepts
            .filter_map(|(index, entry)| entry.waiting.map(|_| index))
            .collect();
        if waiting.is_empty() {
            return;
        }
        let Some(id) = self.node(node).backlog.pop_front() else {
            return;
        };
        let entry = waiting[self.dice.below(waiting.len() as u64) as usize];
        let peer = self.streams[id].peer;
        let accept = &mut self.node(node).accepts[entry];
        accept.waiting = None;
        accept.peer = Some(peer);
        let fails = self.dice.chance(self.faults.accept_error);
        let slot = if fails { None } else { self.free_slot(node) };
        let result = match slot {
            Some(slot) => {
                self.node(node).slots[slot as usize] = Some(id);
                self.streams[id].slot = Some(slot);
                slot as i32
            }
            None => {
                // The kernel has accepted the connection already, and drops it.
                self.streams[id].closed = true;
                self.reset_client(id);
                if fails { -ECONNABORTED } else { -ENFILE }
            }
        };
        let entry = entry as u32;
        self.post(node, Some(id), Token::Accept { entry }, result);
        self.wake_accept(node);
    }

    /// A slot from the free ones: the one freed last, or any.
    pub(super) fn free_slot(&mut self, node: u16) -> Option<u32> {
        let count = self.node(node).free.len();
        let any = self.dice.chance(0.5) && count > 0;
        let index = if any {
            self.dice.below(count as u64) as usize
        } else {
            count.wrapping_sub(1)
        };
        (count > 0).then(|| self.node(node).free.swap_remove(index))
    }

    pub(super) fn cancel_accepts(&mut self, node: u16, ids: &[u64]) {
        for index in 0..self.node(node).accepts.len() {
            let waiting = &mut self.node(node).accepts[index].waiting;
            if waiting.take_if(|id| ids.contains(id)).is_some() {
                let entry = index as u32;
                self.post(node, None, Token::Accept { entry }, -ECANCELED);
            }
        }
    }

    pub(super) fn connect(&mut self, id: StreamId, conn: ConnId) {
        let node = self.streams[id].node;
        let refused = self.dice.chance(self.faults.connect_refused);
        if refused {
            self.streams[id].broken = true;
        } else {
            self.node(node).dialled.push_back(id);
        }
        let result = if refused { -ECONNREFUSED } else { 0 };
        self.post(node, Some(id), Token::Connect(conn), result);
    }

    pub(super) fn close(&mut self, id: StreamId, conn: ConnId) {
        let unread = !self.streams[id].arrived.is_empty();
        let stream = &mut self.streams[id];
        let node = stream.node;
        let finished = stream.broken;
        stream.closed = true;
        stream.slot = None;
        stream.arrived = VecDeque::new();
        if unread && self.dice.chance(self.faults.reset_on_unread) {
            self.reset_client(id);
        } else if !finished {
            self.send_to_client(id, Signal::Fin);
        }
        let slot = conn.slot as usize;
        let state = self.node(node);
        state.slots[slot] = None;
        state.generations[slot] = Some(conn.generation);
        state.free.push(conn.slot);
        self.post(node, Some(id), Token::Close(conn), 0);
    }

    // Doorbells.

    pub(super) fn ring(&mut self, node: u16) {
        self.node(node).bell_rung = true;
        self.answer_bell(node);
    }

    pub(super) fn answer_bell(&mut self, node: u16) {
        let state = self.node(node);
        if state.bell_rung && state.bell_listens {
            state.bell_rung = false;
            state.bell_listens = false;
            self.post(node, None, Token::Bell, 8);
        }
    }
}

const ENFILE: i32 = Errno::NFILE.raw_os_error();
const ECANCELED: i32 = Errno::CANCELED.raw_os_error();
const ECONNABORTED: i32 = Errno::CONNABORTED.raw_os_error();
const ECONNREFUSED: i32 = Errno::CONNREFUSED.raw_os_error();

//! What the caller of a simulated ring may do, given what it has reaped; anything else panics.
//!
//! The record changes when the caller pushes and when it reaps, not when the kernel acts: a caller
//! that relies on a completion it has not seen breaks the contract even if it is lucky.

use super::super::{Op, Token};
use super::kernel::{AcceptEntry, Kernel, Posted};
use super::stream::{Known, Stream};
use crate::base::ConnId;
use std::net::SocketAddr;

impl Kernel {
    /// Panics when the operation breaks the contract of [`super::super::Driver`].
    pub(super) fn admit(&mut self, node: u16, op: &Op) {
        match op {
            Op::Accept { entry } => {
                let accepts = &mut self.node(node).accepts;
                let index = *entry as usize;
                if accepts.len() <= index {
                    accepts.resize(index + 1, AcceptEntry::default());
                }
                let twice = std::mem::replace(&mut accepts[index].known, true);
                assert!(!twice, "contract: accept {entry} is armed twice");
            }
            Op::Recv(conn) => {
                let known = self.known(node, *conn);
                assert!(!known.recv, "contract: receive armed twice on {conn:?}");
                known.recv = true;
            }
            Op::Send(conn, _) => {
                let known = self.known(node, *conn);
                assert!(!known.send, "contract: second send in flight on {conn:?}");
                known.send = true;
            }
            Op::Cancel(conn) => _ = self.known(node, *conn),
            Op::Close(conn) => {
                let known = self.known(node, *conn);
                let pending = known.recv || known.send || known.connect;
                assert!(
                    !pending,
                    "contract: close of {conn:?} while an operation is pending"
                );
                known.close = true;
            }
            Op::Connect { conn, .. } => self.reserve(node, *conn),
            Op::Listen => {
                let twice = std::mem::replace(&mut self.node(node).bell_known, true);
                assert!(!twice, "contract: the doorbell is listened to twice");
            }
            Op::Ring(target) => {
                let exists = usize::from(*target) < self.nodes.len();
                assert!(exists, "contract: there is no node {target} to ring");
            }
            Op::StopAccepting => {}
        }
    }

    /// The record of the caller's socket, after the checks that hold for every operation.
    fn known(&mut self, node: u16, conn: ConnId) -> &mut Known {
        let stream = self.occupant(node, conn.slot);
        let stream = stream.unwrap_or_else(|| panic!("contract: {conn:?} is vacant"));
        let before = self.node(node).generations[conn.slot as usize];
        let known = &mut self.streams[stream].known;
        assert!(
            known.announced || known.connect,
            "contract: {conn:?} is gone"
        );
        assert!(
            !known.close,
            "contract: operation after the close of {conn:?}"
        );
        match known.generation {
            Some(generation) => {
                assert_eq!(
                    generation, conn.generation,
                    "contract: {conn:?} is another's slot"
                );
            }
            None => {
                assert_ne!(
                    before,
                    Some(conn.generation),
                    "contract: {conn:?} reuses the generation of the slot's last socket"
                );
                known.generation = Some(conn.generation);
            }
        }
        known
    }

    /// Occupies the slot of an outgoing connection.
    pub(super) fn reserve(&mut self, node: u16, conn: ConnId) {
        let occupant = self.occupant(node, conn.slot);
        assert!(occupant.is_none(), "contract: {conn:?} is not vacant");
        let peer = super::client_address(self.streams.len());
        let mut stream = Stream::new(node, peer, self.faults.window_bytes);
        stream.slot = Some(conn.slot);
        stream.known.connect = true;
        let id = self.streams.len();
        self.streams.push(stream);
        let state = self.node(node);
        state.slots[conn.slot as usize] = Some(id);
        state.free.retain(|slot| *slot != conn.slot);
        let _ = self.known(node, conn);
    }

    /// The next completion, which the caller knows of from now on.
    pub(super) fn reap(&mut self, node: u16) -> Option<Posted> {
        let posted = self.node(node).completions.pop_front()?;
        if let Some(loan) = &posted.completion.loan {
            self.node(node).pool.lend(loan.buffer);
        }
        let done = !posted.completion.more;
        let known = posted.stream.map(|stream| &mut self.streams[stream].known);
        match (posted.completion.token, known) {
            (Token::Accept { entry }, known) => {
                if let Some(known) = known {
                    known.announced = true;
                }
                self.node(node).accepts[entry as usize].known = false;
            }
            (Token::Connect(_), Some(known)) => {
                known.announced = true;
                known.connect = false;
            }
            (Token::Recv(_), Some(known)) => known.recv = !done,
            (Token::Send(_), Some(known)) => known.send = !done,
            (Token::Bell, _) => self.node(node).bell_known = false,
            _ => {}
        }
        Some(posted)
    }

    pub(super) fn peer(&self, node: u16, entry: u32) -> SocketAddr {
        let accept = &self.nodes[usize::from(node)].accepts[entry as usize];
        assert!(!accept.known, "contract: accept {entry} was armed again");
        accept
            .peer
            .expect("contract: the accept has reported a peer")
    }
}

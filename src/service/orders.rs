//! Orders for the connections of a user: to the shard of one connection when it is named, or to every
//! shard, because a user's connections may be anywhere.
//!
//! Nobody answers an order. When it lies in the lanes it will be carried out; a connection that is
//! gone by then is left alone.

use super::node::Node;
use super::tasks::Late;
use crate::base::{ConnId, NodeId, client_id};
use crate::mesh::{Delivery, Order};
use std::time::Instant;

/// Whom an order is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Addressee {
    /// All connections of the user that the order names.
    User,
    /// One connection.
    Client(NodeId, ConnId),
    /// A connection of another process, or of none.
    Nobody,
}

impl Addressee {
    /// Whom a request names: the client when it names one, else the user. `seed` is the process's.
    pub(super) fn of(seed: u64, client: Option<&str>) -> Self {
        let Some(client) = client else {
            return Self::User;
        };
        match client_id::decode(seed, client) {
            Some((node, conn)) => Self::Client(NodeId(node), conn),
            None => Self::Nobody,
        }
    }
}

/// Puts `order` into the lanes of the shards that it concerns, waiting for those that are full. The
/// order's `client` is set here.
///
/// # Errors
/// [`Late`] when a lane has no room until the deadline; shards before it carry the order out.
pub(super) async fn send(
    node: &Node,
    to: Addressee,
    order: &Order<'_>,
    deadline: Instant,
) -> Result<(), Late> {
    match to {
        Addressee::Nobody => Ok(()),
        Addressee::Client(shard, _) if !node.is_shard(shard) => Ok(()),
        Addressee::Client(shard, conn) => {
            let order = Order {
                client: Some(conn),
                ..*order
            };
            let delivery = Delivery::Order(order);
            node.deliver_in_time(shard, &delivery, deadline).await
        }
        Addressee::User => {
            let delivery = Delivery::Order(Order {
                client: None,
                ..*order
            });
            for shard in node.shards() {
                node.deliver_in_time(shard, &delivery, deadline).await?;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_found_by_its_public_id_and_strangers_are_nobody() {
        let conn = ConnId {
            slot: 4,
            generation: 2,
        };
        let id = client_id::encode(7, 1, conn);
        let found = Addressee::of(7, Some(id.as_str()));
        assert_eq!(found, Addressee::Client(NodeId(1), conn));
        assert_eq!(Addressee::of(8, Some(id.as_str())), Addressee::Nobody);
        assert_eq!(Addressee::of(7, Some("")), Addressee::Nobody);
        assert_eq!(Addressee::of(7, None), Addressee::User);
    }
}

//! This thread's place in the mesh: its lanes, the doorbells of the others, who gets which answer.
//!
//! Deliveries are taken whenever they are there and never wait for anything, which is this thread's
//! part of the mesh's deadlock rule. Requests are not sent to this thread.

use super::acks::Outcome;
use super::bell;
use super::intake::{Desk, count};
use super::mailbox::Mailbox;
use crate::base::slab::Slab;
use crate::base::stats::ServiceStats;
use crate::base::{NodeId, RoomHasher};
use crate::limits;
use crate::mesh::frames::{Delivery, ReplyTo, Request};
use crate::mesh::lanes::{LaneFull, Port};
use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;


//! Tasks of this thread that wait for what shards answer.
//!
//! Whoever asks holds a [`Ticket`], whose number travels with the question and comes back with the
//! answer. A ticket is a place and how often that place was used, so an answer that comes after its
//! task gave up misses. Dropping a ticket gives its place back, however the task ends; the number of
//! places is bounded by [`limits::API_TASKS_MAX`].
//!
//! Answers are owned: the lane gets its bytes back at once, however slowly the task goes on.

use crate::base::slab::Slab;
use crate::base::{Epoch, Offset};
use crate::limits;
use crate::mesh::{Delivery, ReplyTo};
use futures_lite::future;
use glommio::timer::sleep;
use std::cell::RefCell;
use std::task::{Poll, Waker};
use std::time::Instant;

/// What a shard answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The publication has its place.
    Published { epoch: Epoch, offset: Offset },
    /// The room table of its home is full.
    Refused,
    /// Past publications, flat.
    History {
        epoch: Epoch,
        top: Offset,
        recovered: bool,
        publications: Vec<u8>,
    },
    /// Infos of those who are present, flat; none when they are too many for an answer.
    Presence { complete: bool, infos: Vec<u8> },
    /// How many are present.
    PresenceStats { clients: u32, users: u32 },
    /// It is done.
    Done,
    /// Rooms of one shard, as [`Delivery::Rooms`] has them.
    Rooms { complete: bool, rooms: Vec<u8> },
}

impl Outcome {
    /// The ticket that a delivery answers and what it says; `None` when it is no answer to a task.
    pub(super) fn of(delivery: &Delivery<'_>) -> Option<(u64, Self)> {
        let (reply, outcome) = match *delivery {
            Delivery::Published {
                reply,
                epoch,
                offset,
                ..
            } => (reply, Self::Published { epoch, offset }),
            Delivery::Refused { reply } => (reply, Self::Refused),
            Delivery::Done { reply } => (reply, Self::Done),
            Delivery::PresenceStats {
                reply,
                clients,
                users,
            } => (reply, Self::PresenceStats { clients, users }),
            // What follows copies its bytes: only for a task.
            Delivery::History {
                reply: reply @ ReplyTo::Task { .. },
                epoch,
                top,
                recovered,
                publications,
            } => {
                let publications = publications.to_vec();
                let outcome = Self::History {
                    epoch,
                    top,
                    recovered,
                    publications,
                };
                (reply, outcome)
            }
            Delivery::Presence {
                reply: reply @ ReplyTo::Task { .. },
                complete,
                infos,
            } => {
                let infos = infos.to_vec();
                (reply, Self::Presence { complete, infos })
            }
            Delivery::Rooms {
                reply: reply @ ReplyTo::Task { .. },
                complete,
                rooms,
            } => {
                let rooms = rooms.to_vec();
                (reply, Self::Rooms { complete, rooms })
            }
            _ => return None,
        };
        match reply {
            ReplyTo::Task { ticket } => Some((ticket, outcome)),
            _ => None,
        }
    }
}

/// The answer did not come in time, or the lane to the shard never had room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Late;

/// As many tasks wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crowded;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    waiting: RefCell<Slab<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    /// Answers that have not come.
    open: usize,
    outcomes: Vec<Outcome>,
    waker: Option<Waker>,
}

/// The right to one question's answers. See the module.
#[derive(Debug)]
#[must_use = "answers are dropped with the ticket"]
pub(super) struct Ticket<'a> {
    tasks: &'a Tasks,
    index: u32,
    generation: u32,
}

impl Tasks {
    /// A ticket for a question that `answers` shards will answer, each once.
    ///
    /// # Errors
    /// [`Crowded`] when too many tasks wait.
    pub(super) fn ask(&self, answers: usize) -> Result<Ticket<'_>, Crowded> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= limits::API_TASKS_MAX {
            return Err(Crowded);
        }
        let (index, generation) = waiting.insert_with(|_, _| Waiting {
            open: answers,
            outcomes: Vec::with_capacity(answers),
            waker: None,
        });
        Ok(Ticket {
            tasks: self,
            index,
            generation,
        })
    }

    /// Notes an answer and wakes its task when it was the last one. An answer that nobody waits for is
    /// dropped.
    pub(super) fn settle(&self, ticket: u64, outcome: Outcome) {
        let (index, generation) = (ticket as u32, (ticket >> 32) as u32);
        let mut waiting = self.waiting.borrow_mut();
        let Some(entry) = waiting.get_mut(index, generation) else {
            return;
        };
        debug_assert!(entry.open > 0, "more answers than were asked for");
        entry.open = entry.open.saturating_sub(1);
        entry.outcomes.push(outcome);
        if entry.open == 0
            && let Some(waker) = entry.waker.take()
        {
            waker.wake();
        }
    }

    /// Tickets that are out.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// The answers, once all are there.
    fn poll_take(&self, index: u32, generation: u32, waker: &Waker) -> Poll<Vec<Outcome>> {
        let mut waiting = self.waiting.borrow_mut();
        let entry = waiting
            .get_mut(index, generation)
            .expect("a place lives as long as its ticket");
        if entry.open > 0 {
            entry.waker = Some(waker.clone());
            return Poll::Pending;
        }
        Poll::Ready(std::mem::take(&mut entry.outcomes))
    }
}

impl Ticket<'_> {
    /// What the question says of who asks.
    pub(super) fn reply(&self) -> ReplyTo {
        ReplyTo::Task {
            ticket: u64::from(self.generation) << 32 | u64::from(self.index),
        }
    }

    /// Waits for all answers, in the order in which they come.
    ///
    /// # Errors
    /// [`Late`] at the deadline; those that have come are dropped.
    pub(super) async fn outcomes(self, deadline: Instant) -> Result<Vec<Outcome>, Late> {
        let (tasks, index, generation) = (self.tasks, self.index, self.generation);
        let answered = future::poll_fn(|cx| tasks.poll_take(index, generation, cx.waker()));
        let late = async {
            sleep(deadline.saturating_duration_since(Instant::now())).await;
            Err(Late)
        };
        future::or(async { Ok(answered.await) }, late).await
    }

    /// Waits for the answer to a question that one shard answers.
    ///
    /// # Errors
    /// As [`Ticket::outcomes`].
    pub(super) async fn outcome(self, deadline: Instant) -> Result<Outcome, Late> {
        self.outcomes(deadline).await?.pop().ok_or(Late)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut waiting = self.tasks.waiting.borrow_mut();
        waiting.remove(self.index, self.generation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn ticket_of(ticket: &Ticket<'_>) -> u64 {
        match ticket.reply() {
            ReplyTo::Task { ticket } => ticket,
            other => panic!("{other:?}"),
        }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        glommio::LocalExecutor::default().run(future)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[test]
    fn a_task_gets_its_answers_when_all_are_there() {
        let tasks = Tasks::default();
        let ticket = tasks.ask(2).unwrap();
        let number = ticket_of(&ticket);
        tasks.settle(number, Outcome::Done);
        tasks.settle(number, Outcome::Refused);
        let outcomes = run(ticket.outcomes(soon()));
        assert_eq!(outcomes, Ok(vec![Outcome::Done, Outcome::Refused]));
        assert_eq!(tasks.len(), 0);
    }

    #[test]
    fn a_task_that_is_not_answered_in_time_is_told() {
        let tasks = Tasks::default();
        let ticket = tasks.ask(2).unwrap();
        tasks.settle(ticket_of(&ticket), Outcome::Done);
        assert_eq!(run(ticket.outcomes(soon())), Err(Late));
        assert_eq!(tasks.len(), 0);
    }

    #[test]
    fn a_late_answer_is_not_taken_for_that_of_the_next_task() {
        let tasks = Tasks::default();
        let first = tasks.ask(1).unwrap();
        let stale = ticket_of(&first);
        drop(first);
        let second = tasks.ask(1).unwrap();
        tasks.settle(stale, Outcome::Refused);
        tasks.settle(ticket_of(&second), Outcome::Done);
        assert_eq!(run(second.outcome(soon())), Ok(Outcome::Done));
    }

    #[test]
    fn the_number_of_waiting_tasks_is_bounded() {
        let tasks = Tasks::default();
        let mut tickets: Vec<_> = (0..limits::API_TASKS_MAX)
            .map(|_| tasks.ask(1).unwrap())
            .collect();
        assert!(tasks.ask(1).is_err());
        tickets.pop();
        assert!(tasks.ask(1).is_ok());
    }

    #[test]
    fn what_is_not_for_a_task_is_left_alone() {
        let reply = ReplyTo::Upstream {
            conn: 1,
            generation: 2,
            request: 3,
        };
        assert_eq!(Outcome::of(&Delivery::Done { reply }), None);
        assert_eq!(Outcome::of(&Delivery::Drained), None);
        let reply = ReplyTo::Task { ticket: 9 };
        let done = Outcome::of(&Delivery::Done { reply });
        assert_eq!(done, Some((9, Outcome::Done)));
    }
}

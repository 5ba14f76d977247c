//! What a method works with: the thread's lanes and tasks, and the deadline of its request.

use super::error::ApiError;
use super::{ChannelFeatures, Shared};
use crate::limits;
use crate::mesh::{Order, ReplyTo, Request};
use crate::service::orders::{self, Addressee};
use crate::service::tasks::{Late, Outcome, Ticket};
use crate::wire::client::ErrorCode;
use std::time::Instant;

/// See the module.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) shared: &'a Shared,
    /// When the request is answered, whatever is missing.
    pub(super) deadline: Instant,
}

impl<'a> Call<'a> {
    /// What public client ids are made with.
    pub(super) fn seed(&self) -> u64 {
        self.shared.api.seed
    }

    /// What a channel offers.
    ///
    /// # Errors
    /// When it cannot be a channel or its namespace is unknown.
    pub(super) fn channel(&self, channel: &str) -> Result<ChannelFeatures, ApiError> {
        if channel.is_empty() || channel.len() > limits::ROOM_NAME_MAX {
            let expected = format!("1 to {} bytes expected", limits::ROOM_NAME_MAX);
            return Err(ApiError::field("channel", &expected));
        }
        let features = (self.shared.api.channels)(channel);
        features.ok_or_else(|| ErrorCode::UnknownChannel.into())
    }

    /// A ticket for a question that `answers` shards answer.
    pub(super) fn ask(&self, answers: usize) -> Result<Ticket<'a>, ApiError> {
        self.check_deadline()?;
        Ok(self.shared.node.tasks.ask(answers)?)
    }

    /// Sends a question to the home of `channel`.
    pub(super) async fn request(
        &self,
        channel: &str,
        request: &Request<'_>,
    ) -> Result<(), ApiError> {
        let node = &self.shared.node;
        Ok(node
            .request_in_time(channel, request, self.deadline)
            .await?)
    }

    /// Asks the home of `channel` what `question` makes of the asker.
    pub(super) async fn answer<'r>(
        &self,
        channel: &'r str,
        question: impl FnOnce(ReplyTo) -> Request<'r>,
    ) -> Result<Outcome, ApiError> {
        let ticket = self.ask(1)?;
        self.request(channel, &question(ticket.reply())).await?;
        Ok(ticket.outcome(self.deadline).await?)
    }

    /// Gives an order.
    pub(super) async fn order(&self, to: Addressee, order: &Order<'_>) -> Result<(), ApiError> {
        self.check_deadline()?;
        Ok(orders::send(&self.shared.node, to, order, self.deadline).await?)
    }

    /// What would not be waited for is not begun: the rest of a batch, or of a broadcast.
    fn check_deadline(&self) -> Result<(), Late> {
        if Instant::now() < self.deadline {
            return Ok(());
        }
        Err(Late)
    }

    /// The error for an answer that is not the one asked for.
    pub(super) fn unexpected(&self, outcome: &Outcome) -> ApiError {
        match outcome {
            Outcome::Refused => ApiError::new(
                ErrorCode::Internal,
                "the shard has no room for more channels",
            ),
            _ => {
                debug_assert!(false, "an answer to another question: {outcome:?}");
                ErrorCode::Internal.into()
            }
        }
    }
}

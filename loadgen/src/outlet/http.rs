//! What ways over HTTP have in common: one request per publication, whose answer confirms it.

use super::{Confirm, Confirmation, Outlet};
use std::collections::VecDeque;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);

/// How one publication is put into a request.
pub(crate) trait Post: Send {
    /// Publishes, and waits for the answer, which is that of [`Confirmation::result`]. An error outside of it
    /// ends the publishing.
    fn post(
        &mut self,
        agent: &ureq::Agent,
        room: u32,
        payload: &[u8],
    ) -> Result<Result<Option<u64>, String>, String>;
}

/// The connection; it is kept open between requests.
pub(crate) struct HttpOutlet<P> {
    agent: ureq::Agent,
    post: P,
    sent: u64,
    confirmations: VecDeque<Confirmation>,
}

impl<P> HttpOutlet<P> {
    pub(super) fn new(agent: ureq::Agent, post: P) -> Self {
        Self {
            agent,
            post,
            sent: 0,
            confirmations: VecDeque::new(),
        }
    }
}

/// The client. A status is an answer, not an error.
pub(super) fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        // What is measured is the server, however the host reaches others.
        .proxy(None)
        .http_status_as_error(false)
        .build();
    config.into()
}

impl<P: Post> Outlet for HttpOutlet<P> {
    fn send(&mut self, room: u32, payload: &[u8], confirm: Confirm) -> Result<u64, String> {
        let result = self.post.post(&self.agent, room, payload)?;
        let request = self.sent;
        self.sent += 1;
        if confirm != Confirm::No || result.is_err() {
            self.confirmations
                .push_back(Confirmation { request, result });
        }
        Ok(request)
    }

    fn waits_for_each(&self) -> bool {
        true
    }

    fn flush(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<Confirmation>, String> {
        Ok(self.confirmations.pop_front())
    }

    fn wait(&mut self) -> Result<Confirmation, String> {
        self.confirmations
            .pop_front()
            .ok_or_else(|| "every publication has been confirmed".to_owned())
    }

    fn settle(&mut self) -> Result<(), String> {
        Ok(())
    }
}

//! nchan: an HTTP POST to the address of the room's publisher. The answer confirms.

use super::{Confirm, Confirmation, Outlet};
use crate::dialect::ROOM_PREFIX;
use std::collections::VecDeque;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);
/// What stands for the name of the room in the URL.
const PLACE: &str = "{room}";

/// The connection; it is kept open between requests.
pub(crate) struct NchanOutlet {
    agent: ureq::Agent,
    url: String,
    sent: u64,
    confirmations: VecDeque<Confirmation>,
}

impl NchanOutlet {
    /// With the URL of the publisher's location, in which `{room}` stands for the name of the room.
    pub(crate) fn connect(url: &str) -> Result<Self, String> {
        if !url.contains(PLACE) {
            return Err(format!(
                "--publish-to {url}: {PLACE} is missing, as in http://127.0.0.1/pub/{PLACE}"
            ));
        }
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .build();
        Ok(Self {
            agent: config.into(),
            url: url.to_owned(),
            sent: 0,
            confirmations: VecDeque::new(),
        })
    }
}

impl Outlet for NchanOutlet {
    fn send(&mut self, room: u32, payload: &[u8], confirm: Confirm) -> Result<u64, String> {
        let url = self.url.replace(PLACE, &format!("{ROOM_PREFIX}{room}"));
        let text = |error: ureq::Error| format!("{url}: {error}");
        let mut response = self.agent.post(&url).send(payload).map_err(text)?;
        // Read to its end, so that the connection can be used again.
        response.body_mut().read_to_string().map_err(text)?;
        let request = self.sent;
        self.sent += 1;
        let status = response.status();
        let result = match status.is_success() {
            true => Ok(None),
            false => Err(format!("{url} answered with status {status}")),
        };
        if confirm != Confirm::No || result.is_err() {
            self.confirmations
                .push_back(Confirmation { request, result });
        }
        Ok(request)
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

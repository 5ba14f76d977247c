//! nchan: an HTTP POST to the address of the room's publisher.

use super::http::{HttpOutlet, Post, agent};
use crate::dialect::ROOM_PREFIX;
use crate::url::hide_secrets;

/// What stands for the name of the room in the URL.
const PLACE: &str = "{room}";

/// Where the publishers of the rooms are.
pub(crate) struct Nchan {
    url: String,
}

impl Nchan {
    /// With the URL of the publisher's location, in which `{room}` stands for the name of the room.
    pub(crate) fn connect(url: &str) -> Result<HttpOutlet<Self>, String> {
        let is_url = url.starts_with("http://") || url.starts_with("https://");
        if !is_url || !url.contains(PLACE) {
            return Err(format!(
                "--publish-to {}: a URL with {PLACE}, as http://127.0.0.1/pub/{PLACE}",
                hide_secrets(url)
            ));
        }
        let url = url.to_owned();
        Ok(HttpOutlet::new(agent(), Self { url }))
    }
}

impl Post for Nchan {
    fn post(
        &mut self,
        agent: &ureq::Agent,
        room: u32,
        payload: &[u8],
    ) -> Result<Result<Option<u64>, String>, String> {
        let url = self.url.replace(PLACE, &format!("{ROOM_PREFIX}{room}"));
        let shown = hide_secrets(&url);
        let text = |error: ureq::Error| format!("{shown}: {error}");
        let mut response = agent.post(&url).send(payload).map_err(text)?;
        // Read to its end, so that the connection can be used again.
        response.body_mut().read_to_string().map_err(text)?;
        let status = response.status();
        Ok(match status.is_success() {
            true => Ok(None),
            false => Err(format!("{shown} answered with status {status}")),
        })
    }
}

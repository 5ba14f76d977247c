//! The HTTP API of Centrifugo, which Ringcast has too: one request per publication.

use super::{Confirm, Confirmation, Outlet};
use crate::dialect::ROOM_PREFIX;
use serde::Deserialize;
use std::collections::VecDeque;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);

/// The connection; it is kept open between requests.
pub(crate) struct HttpApiOutlet {
    agent: ureq::Agent,
    url: String,
    key: Option<String>,
    sent: u64,
    confirmations: VecDeque<Confirmation>,
}

#[derive(Deserialize)]
struct Answer {
    result: Option<Published>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Published {
    offset: Option<u64>,
}

#[derive(Deserialize)]
struct Refusal {
    code: u32,
    message: String,
}

impl HttpApiOutlet {
    /// The API at `url`, as http://127.0.0.1:8002/api, asked whether it is there.
    pub(crate) fn connect(url: &str, key: Option<&str>) -> Result<Self, String> {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .build();
        let mut outlet = Self {
            agent: config.into(),
            url: url.trim_end_matches('/').to_owned(),
            key: key.map(str::to_owned),
            sent: 0,
            confirmations: VecDeque::new(),
        };
        outlet.call("info", b"{}")?;
        Ok(outlet)
    }

    fn call(&mut self, method: &str, body: &[u8]) -> Result<Answer, String> {
        let url = format!("{}/{method}", self.url);
        let mut request = self
            .agent
            .post(&url)
            .header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("X-API-Key", key);
        }
        let mut response = request
            .send(body)
            .map_err(|error| format!("{url}: {error}"))?;
        let status = response.status();
        let text = response
            .body_mut()
            .read_to_string()
            .map_err(|error| format!("{url}: {error}"))?;
        match serde_json::from_str(&text) {
            Ok(answer) => Ok(answer),
            Err(_) => Err(format!(
                "{url} answered with status {status}, not with a result; is --api-key right?"
            )),
        }
    }
}

impl Outlet for HttpApiOutlet {
    fn send(&mut self, room: u32, payload: &[u8], confirm: Confirm) -> Result<u64, String> {
        let mut body = format!("{{\"channel\":\"{ROOM_PREFIX}{room}\",\"data\":").into_bytes();
        body.extend_from_slice(payload);
        body.push(b'}');
        let answer = self.call("publish", &body)?;
        let request = self.sent;
        self.sent += 1;
        let result = match answer.error {
            Some(refusal) => Err(format!("error {}: {}", refusal.code, refusal.message)),
            None => Ok(answer.result.and_then(|published| published.offset)),
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

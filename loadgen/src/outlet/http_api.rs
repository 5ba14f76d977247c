//! The HTTP API of Centrifugo, which Ringcast has too.

use super::http::{HttpOutlet, Post, agent};
use crate::dialect::ROOM_PREFIX;
use crate::url::hide_secrets;
use serde::Deserialize;

/// Where the API is, and its key.
pub(crate) struct HttpApi {
    url: String,
    key: Option<String>,
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

impl HttpApi {
    /// The API at `url`, as http://127.0.0.1:8002/api, asked whether it is there.
    pub(crate) fn connect(url: &str, key: Option<&str>) -> Result<HttpOutlet<Self>, String> {
        let agent = agent();
        let api = Self {
            url: url.trim_end_matches('/').to_owned(),
            key: key.map(str::to_owned),
        };
        api.call(&agent, "info", b"{}")?;
        Ok(HttpOutlet::new(agent, api))
    }

    fn call(&self, agent: &ureq::Agent, method: &str, body: &[u8]) -> Result<Answer, String> {
        let url = format!("{}/{method}", self.url);
        let shown = hide_secrets(&url);
        let text = |error: ureq::Error| format!("{shown}: {error}");
        let mut request = agent.post(&url).header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("X-API-Key", key);
        }
        let mut response = request.send(body).map_err(text)?;
        let status = response.status();
        let answer = response.body_mut().read_to_string().map_err(text)?;
        serde_json::from_str(&answer).map_err(|_| {
            format!("{shown} answered with status {status}, not with a result; is --api-key right?")
        })
    }
}

impl Post for HttpApi {
    fn post(
        &mut self,
        agent: &ureq::Agent,
        room: u32,
        payload: &[u8],
    ) -> Result<Result<Option<u64>, String>, String> {
        let mut body = format!("{{\"channel\":\"{ROOM_PREFIX}{room}\",\"data\":").into_bytes();
        body.extend_from_slice(payload);
        body.push(b'}');
        let answer = self.call(agent, "publish", &body)?;
        Ok(match answer.error {
            Some(refusal) => Err(format!("error {}: {}", refusal.code, refusal.message)),
            None => Ok(answer.result.and_then(|published| published.offset)),
        })
    }
}

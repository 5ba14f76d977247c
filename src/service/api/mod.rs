//! The server API: backends publish, ask and give orders over HTTP, `POST /api/<method>` on the admin
//! listener. Methods, fields and codes are those of Centrifugo, so that its API clients work.
//!
//! A request is admitted by its key, read whole, up to a bound, and answered by one method, which may
//! ask shards and wait until a deadline. A method that fails is an answer with status 200 and an error
//! in it, unless the caller asks for `X-Centrifugo-Error-Mode: transport`.
//!
//! ```text
//!  keys ─► body ─► fields ─► publications · reads · connections ─► call ─► lanes, tasks, orders
//! ```

mod call;
mod connections;
mod data;
mod error;
mod fields;
mod keys;
mod node_info;
mod publications;
mod reads;

use super::{ChannelLookup, ServiceSetup, Shared};
use crate::limits;
use crate::wire::client::ErrorCode;
use call::Call;
use error::{Answer, ApiError};
use fields::Fields;
use futures_lite::future;
use glommio::timer::sleep;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, StatusCode};
use keys::Keys;
use serde_json::value::RawValue;
use std::time::{Duration, Instant};

/// What the API is told at its start.
pub(super) struct Api {
    keys: Keys,
    channels: ChannelLookup,
    seed: u64,
    started: Instant,
}

/// What a channel offers, as its namespace says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelFeatures {
    /// It keeps a history.
    pub history: bool,
    /// Who is there can be asked for.
    pub presence: bool,
}

/// An answer that is not a method's.
#[derive(Debug)]
pub(super) enum Refusal {
    /// No valid key.
    Unauthorized,
    /// A body that is longer than [`limits::API_BODY_MAX`].
    TooLarge,
    /// A body that did not come in time.
    Slow,
    /// A body that is no JSON, or did not come whole.
    Malformed,
}

/// A method's answer.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: StatusCode,
    /// A JSON document.
    pub(super) body: Vec<u8>,
}

impl Api {
    pub(super) fn new(setup: &ServiceSetup) -> Self {
        Self {
            keys: Keys::new(&setup.api_keys, setup.api_insecure),
            channels: setup.channels.clone(),
            seed: setup.seed,
            started: Instant::now(),
        }
    }
}

/// Answers a request for `method`.
pub(super) async fn answer(
    shared: &Shared,
    method: &str,
    request: Request<Incoming>,
) -> Result<Answered, Refusal> {
    if !shared
        .api
        .keys
        .admit(request.headers(), request.uri().query())
    {
        shared.stats.api_unauthorized_total.add(1);
        return Err(Refusal::Unauthorized);
    }
    shared.stats.api_requests_total.add(1);
    let mode = request.headers().get("x-centrifugo-error-mode");
    let is_transport = mode.is_some_and(|mode| mode.as_bytes().eq_ignore_ascii_case(b"transport"));
    let answered = async {
        let body = read(request.into_body()).await?;
        let text = simdutf8::basic::from_utf8(&body).map_err(|_| Refusal::Malformed)?;
        let document: &RawValue = serde_json::from_str(text).map_err(|_| Refusal::Malformed)?;
        let call = Call {
            shared,
            deadline: Instant::now() + Duration::from_millis(limits::API_DEADLINE_MS),
        };
        Ok(run(&call, method, document).await)
    };
    let answer = match answered.await {
        Ok(answer) => answer,
        Err(refusal) => {
            shared.stats.api_errors_total.add(1);
            return Err(refusal);
        }
    };
    let status = match &answer {
        Err(error) if is_transport => error.status(),
        _ => StatusCode::OK,
    };
    let mut body = Vec::new();
    write(shared, &mut body, "result", answer);
    Ok(Answered { status, body })
}

async fn read(body: Incoming) -> Result<Bytes, Refusal> {
    let whole = async {
        match Limited::new(body, limits::API_BODY_MAX).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(Refusal::TooLarge),
            Err(_) => Err(Refusal::Malformed),
        }
    };
    let late = async {
        sleep(Duration::from_millis(limits::ADMIN_DEADLINE_MS)).await;
        Err(Refusal::Slow)
    };
    future::or(whole, late).await
}

/// Appends `{"<name>":…}`, or the error.
fn write(shared: &Shared, out: &mut Vec<u8>, name: &str, answer: Answer) {
    match answer {
        Ok(result) => {
            out.extend_from_slice(format!("{{\"{name}\":").as_bytes());
            out.extend_from_slice(&result);
            out.push(b'}');
        }
        Err(error) => {
            shared.stats.api_errors_total.add(1);
            error.write(out);
        }
    }
}

async fn run(call: &Call<'_>, method: &str, document: &RawValue) -> Answer {
    let fields = Fields::of(document, String::new())?;
    match method {
        "batch" => batch(call, &fields).await,
        _ => run_single(call, method, &fields).await,
    }
}

/// Every method but `batch`.
async fn run_single(call: &Call<'_>, method: &str, fields: &Fields<'_>) -> Answer {
    match method {
        "publish" => publications::publish(call, fields).await,
        "broadcast" => publications::broadcast(call, fields).await,
        "subscribe" => connections::subscribe(call, fields).await,
        "unsubscribe" => connections::unsubscribe(call, fields).await,
        "disconnect" => connections::disconnect(call, fields).await,
        "refresh" => connections::refresh(call, fields).await,
        "message" => connections::message(call, fields).await,
        "presence" => reads::presence(call, fields).await,
        "presence_stats" => reads::presence_stats(call, fields).await,
        "history" => reads::history(call, fields).await,
        "history_remove" => reads::history_remove(call, fields).await,
        "channels" => reads::channels(call, fields).await,
        "info" => Ok(node_info::info(call.shared)),
        "rpc" => {
            let detail = "there are no methods to be called";
            Err(ApiError::new(ErrorCode::NotAvailable, detail))
        }
        _ => Err(ErrorCode::MethodNotFound.into()),
    }
}

/// Carries commands out one after another, in their order: with `parallel`, which allows any order,
/// as well. One deadline is for all of them.
async fn batch(call: &Call<'_>, fields: &Fields<'_>) -> Answer {
    fields.flag("parallel")?;
    let commands = fields.list("commands", limits::API_COMMANDS_MAX)?;
    let mut out = br#"{"replies":["#.to_vec();
    for (index, command) in commands.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        if out.len() > limits::API_ANSWER_BYTES_MAX {
            let detail = "the answers before fill the batch's";
            let error = ApiError::new(ErrorCode::LimitExceeded, detail);
            write(call.shared, &mut out, "", Err(error));
            continue;
        }
        match command_of(command, format!("commands[{index}]")) {
            Ok((method, fields)) => {
                let answer = run_single(call, &method, &fields).await;
                write(call.shared, &mut out, &method, answer);
            }
            Err(error) => write(call.shared, &mut out, "", Err(error)),
        }
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

/// Method and fields of one command of a batch: `{"<method>":{…}}`.
fn command_of(command: &RawValue, path: String) -> Result<(String, Fields<'_>), ApiError> {
    let command = Fields::of(command, path.clone())?;
    let mut methods = command.iter();
    match (methods.next(), methods.next()) {
        (Some((method, fields)), None) => {
            let fields = Fields::of(fields, format!("{path}.{method}"))?;
            Ok((method.to_owned(), fields))
        }
        _ => Err(ApiError::field(&path, "one method expected")),
    }
}

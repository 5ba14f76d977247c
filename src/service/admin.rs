//! The HTTP listener of operators and backends: `/health`, `/ready`, `/metrics`, and the server API.
//!
//! Health asks whether the process should be killed, readiness whether it should be sent clients; the
//! answers give the reason in words. These pages need no authentication: bind the listener where only
//! operators reach it. They are one request a connection and one absolute deadline for it, so that
//! slow or idle peers cost a place for ten seconds at most.
//!
//! A connection that the API was used on may be used again, until it is silent for too long or too
//! many others are open.

use super::Shared;
use super::accept::accept;
use super::api::{self, Answered, Refusal};
use super::metrics;
use super::readable::stream_of;
use crate::base::stats::ShardStats;
use crate::limits;
use futures_lite::future;
use glommio::timer::sleep;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use smol_hyper::rt::FuturesIo;
use std::cell::Cell;
use std::convert::Infallible;
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Path of the API's methods, up to their names.
const API: &str = "/api/";

/// Serves requests on `listener` for ever.
pub(super) async fn listen(shared: Rc<Shared>, listener: TcpListener) {
    let open = Rc::new(Cell::new(0));
    accept(listener, |stream| {
        if open.get() >= limits::ADMIN_CONNS_MAX {
            return;
        }
        open.set(open.get() + 1);
        let (shared, open) = (Rc::clone(&shared), Rc::clone(&open));
        glommio::spawn_local(async move {
            if !serve(&shared, stream, &open).await {
                shared.stats.admin_errors_total.add(1);
            }
            open.set(open.get() - 1);
        })
        .detach();
    })
    .await;
}

/// Serves one connection; whether it ended behind an answer. `open` connections are there.
async fn serve(shared: &Shared, stream: TcpStream, open: &Cell<usize>) -> bool {
    let deadline = Cell::new(after(limits::ADMIN_DEADLINE_MS));
    // Whether it waits for another request.
    let is_idle = Cell::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        let (deadline, is_idle) = (&deadline, &is_idle);
        async move {
            let path = request.uri().path();
            let Some(method) = path.strip_prefix(API).map(str::to_owned) else {
                let mut response = page(shared, request.method(), path);
                close_behind(&mut response);
                return Ok::<_, Infallible>(response);
            };
            is_idle.set(false);
            // For the body, for the shards' answers, for the rest of the way.
            deadline.set(after(3 * limits::ADMIN_DEADLINE_MS));
            let mut response = call(shared, &method, request).await;
            if open.get() > limits::ADMIN_CONNS_CROWDED || shared.draining.get() {
                close_behind(&mut response);
            }
            deadline.set(after(limits::ADMIN_IDLE_MS));
            is_idle.set(true);
            Ok(response)
        }
    });
    let io = FuturesIo::new(stream_of(stream.into()));
    let served = hyper::server::conn::http1::Builder::new()
        .max_buf_size(limits::ADMIN_HEAD_BYTES_MAX)
        .serve_connection(io, service);
    let late = async {
        reached(&deadline).await;
        is_idle.get()
    };
    future::or(async { served.await.is_ok() }, late).await
}

fn after(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

/// Completes at the deadline, which may be moved to a later time meanwhile.
async fn reached(deadline: &Cell<Instant>) {
    loop {
        let left = deadline.get().saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        sleep(left).await;
    }
}

/// A request of the server API.
async fn call(shared: &Shared, method: &str, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if *request.method() != Method::POST {
        return wrong_method("method not allowed; use POST\n", "POST");
    }
    let (status, text) = match api::answer(shared, method, request).await {
        Ok(Answered { status, body }) => return respond(status, JSON, body),
        Err(Refusal::Unauthorized) => {
            let text = "no valid API key; send X-API-Key\n";
            let response = respond(StatusCode::UNAUTHORIZED, TEXT, text);
            return with_field(response, WWW_AUTHENTICATE, "apikey");
        }
        Err(Refusal::TooLarge) => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n"),
        Err(Refusal::Slow) => (
            StatusCode::REQUEST_TIMEOUT,
            "the body did not come in time\n",
        ),
        Err(Refusal::Malformed) => (StatusCode::BAD_REQUEST, "the body is no JSON document\n"),
    };
    respond(status, TEXT, text)
}

/// `/health`, `/ready` or `/metrics`.
fn page(shared: &Shared, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let known = matches!(path, "/health" | "/ready" | "/metrics");
    if !known {
        let text = "not found; there are /health, /ready, /metrics and /api/<method>\n";
        return respond(StatusCode::NOT_FOUND, TEXT, text);
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return wrong_method("method not allowed; use GET\n", "GET, HEAD");
    }
    match path {
        "/health" => report(health(shared)),
        "/ready" => report(readiness(shared)),
        _ => respond(
            StatusCode::OK,
            metrics::CONTENT_TYPE,
            metrics::write(shared),
        ),
    }
}

fn wrong_method(text: &'static str, allowed: &'static str) -> Response<Full<Bytes>> {
    let response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
    with_field(response, ALLOW, allowed)
}

/// No other request is read from the connection.
fn close_behind(response: &mut Response<Full<Bytes>>) {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
}

fn with_field(
    mut response: Response<Full<Bytes>>,
    name: HeaderName,
    value: &'static str,
) -> Response<Full<Bytes>> {
    response
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
    response
}

/// What `/health` and `/ready` say.
#[derive(Serialize)]
struct Report<'a> {
    status: &'static str,
    node: &'a str,
    /// Empty when all is well.
    reasons: Vec<String>,
}

/// Unhealthy: a shard makes no turns.
fn health(shared: &Shared) -> Report<'_> {
    let reasons: Vec<String> = stalled(shared).collect();
    Report {
        status: if reasons.is_empty() { "ok" } else { "stalled" },
        node: &shared.node_name,
        reasons,
    }
}

/// Not ready: going down, starting, or unhealthy.
fn readiness(shared: &Shared) -> Report<'_> {
    let mut reasons = Vec::new();
    if shared.draining.get() {
        reasons.push("draining".to_owned());
    }
    let shards = shared.shards.iter().enumerate();
    let starting = shards.filter(|(_, stats)| stats.shard.turns_total.read() == 0);
    reasons.extend(starting.map(|(shard, _)| format!("shard {shard} has not started")));
    reasons.extend(stalled(shared));
    Report {
        status: if reasons.is_empty() {
            "ready"
        } else {
            "not ready"
        },
        node: &shared.node_name,
        reasons,
    }
}

fn stalled(shared: &Shared) -> impl Iterator<Item = String> {
    let now_ms = shared.now_ms();
    shared
        .shards
        .iter()
        .enumerate()
        .filter_map(move |(shard, stats)| {
            let age_ms = turn_age_ms(&stats.shard, now_ms);
            (age_ms > limits::STALL_MS)
                .then(|| format!("shard {shard} has made no turn for {age_ms} ms"))
        })
}

/// Milliseconds since the shard's last turn; 0 before the first, which `/ready` waits for.
pub(super) fn turn_age_ms(stats: &ShardStats, now_ms: u64) -> u64 {
    match stats.last_turn_ms.read() {
        0 => 0,
        last_ms => now_ms.saturating_sub(last_ms),
    }
}

fn report(report: Report<'_>) -> Response<Full<Bytes>> {
    let status = if report.reasons.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut body = serde_json::to_string(&report).expect("a report has string keys only");
    body.push('\n');
    respond(status, JSON, body)
}

fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, content_type)
        .header(CACHE_CONTROL, "no-store")
        .body(Full::new(body.into()))
        .expect("the parts are constants")
}

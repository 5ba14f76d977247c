//! The operators' HTTP listener: `/health`, `/ready`, `/metrics`.
//!
//! Health asks whether the process should be killed, readiness whether it should be sent clients; the
//! answers give the reason in words. One request a connection and one absolute deadline for it, so
//! that slow or idle peers cost a place for ten seconds at most. No authentication: bind it where only
//! operators reach it.

use super::Shared;
use super::accept::accept;
use super::metrics;
use super::readable::stream_of;
use crate::base::stats::ShardStats;
use crate::limits;
use futures_lite::future;
use glommio::timer::sleep;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use smol_hyper::rt::FuturesIo;
use std::cell::Cell;
use std::convert::Infallible;
use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

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
            let io = FuturesIo::new(stream_of(stream.into()));
            let service = service_fn(|request: Request<Incoming>| {
                let response = answer(&shared, request.method(), request.uri().path());
                async move { Ok::<_, Infallible>(response) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .serve_connection(io, service);
            let deadline = sleep(Duration::from_millis(limits::ADMIN_DEADLINE_MS));
            let served = future::or(async { served.await.is_ok() }, async {
                deadline.await;
                false
            });
            if !served.await {
                shared.stats.admin_errors_total.add(1);
            }
            open.set(open.get() - 1);
        })
        .detach();
    })
    .await;
}

fn answer(shared: &Shared, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let known = matches!(path, "/health" | "/ready" | "/metrics");
    if !known {
        let text = "not found; there are /health, /ready and /metrics\n";
        return respond(StatusCode::NOT_FOUND, TEXT, text);
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let text = "method not allowed; use GET\n";
        let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
        response
            .headers_mut()
            .insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
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

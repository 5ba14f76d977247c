//! Figures for the demo page: a small JSON document, published to a room once a second.

use super::Shared;
use crate::base::Content;
use crate::base::stats::Counter;
use crate::mesh::{Publish, Request};
use glommio::timer::sleep;
use serde::Serialize;
use std::rc::Rc;
use std::time::{Duration, Instant};

#[derive(Serialize)]
struct Figures {
    /// Client connections open now.
    connections: u64,
    publications_per_s: u64,
    deliveries_per_s: u64,
}

/// Publishes the figures to `room` every second, for ever. A second whose lane is full is left out.
pub(super) async fn publish_figures(shared: Rc<Shared>, room: String) {
    let mut before = totals(&shared);
    let mut then = Instant::now();
    loop {
        sleep(Duration::from_secs(1)).await;
        let (now, after) = (Instant::now(), totals(&shared));
        let per_s = |count: u64| (count as f64 / (now - then).as_secs_f64()).round() as u64;
        let figures = Figures {
            connections: sum(&shared, |stats| &stats.connections),
            publications_per_s: per_s(after.0 - before.0),
            deliveries_per_s: per_s(after.1 - before.1),
        };
        (then, before) = (now, after);
        if let Ok(payload) = serde_json::to_vec(&figures) {
            let _ = shared.node.request(&room, &request(&room, &payload));
        }
    }
}

fn request<'a>(room: &'a str, payload: &'a [u8]) -> Request<'a> {
    Request::Publish(Publish {
        skip_history: true,
        ..Publish::plain(room, Content::Json, payload)
    })
}

/// Publications and deliveries so far.
fn totals(shared: &Shared) -> (u64, u64) {
    (
        sum(shared, |stats| &stats.publications_total),
        sum(shared, |stats| &stats.deliveries_total),
    )
}

fn sum(shared: &Shared, counter: impl Fn(&crate::base::stats::ShardStats) -> &Counter) -> u64 {
    let shards = shared.shards.iter();
    shards.map(|stats| counter(&stats.shard).read()).sum()
}

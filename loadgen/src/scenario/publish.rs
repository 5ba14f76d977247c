//! `publish`: publications without subscribers, until the last to every room has its place.

use crate::course::Now;
use crate::fleet::POLL;
use crate::host;
use crate::options::{Ack, Publish};
use crate::outlet::{Confirm, UpstreamOutlet};
use crate::publisher::{self, Plan};
use crate::report::{LoadgenReport, PublishReport, Report, ServerReport, WorkerReport};
use crate::schedule::Schedule;
use crate::watch::Watch;
use std::sync::Arc;
use std::sync::mpsc::channel;

/// Publishes to rooms without subscribers.
pub(crate) fn publish(options: &Publish) -> Result<Report, String> {
    let publications = &options.publications;
    if !publications.is_upstream_alone() {
        return Err(
            "publish measures the upstream protocol: leave --publish-by, --publish-to, --api-key and --window out"
                .to_owned(),
        );
    }
    let counted = u64::from(publications.messages()) * u64::from(options.rooms);
    if u32::try_from(counted).is_err() {
        return Err("rooms × messages must be below 2^32".to_owned());
    }
    let mut plan = Plan::new(
        Schedule::closed(counted),
        options.rooms,
        publications.payload,
    );
    plan.confirm = match options.ack {
        Ack::None => Confirm::No,
        Ack::Accepted => Confirm::Taken,
        Ack::Sequenced => Confirm::Sequenced,
    };
    plan.settles_rooms = true;
    let outlet = UpstreamOutlet::connect(publications.upstream, publications.key(), options.rooms)?;
    let progress = Arc::new(publisher::Progress::default());
    let pids = &options.observe.server_pid;
    let server_before = host::read_all(pids)?;
    let own_before = host::read_own()?;
    let (observe, output) = (&options.observe, &options.output);
    let mut watch = Watch::new(channel().1, own_before, 0, observe, output)?;
    let publishing = publisher::start(plan.clone(), Box::new(outlet), &progress)?;
    while !publishing.is_finished() {
        watch.tick(|| Now::of_publisher(&progress));
        std::thread::sleep(POLL);
    }
    let outcome = publisher::end(publishing)?;
    let server_after = host::read_all(pids)?;
    let own_after = host::read_own()?;

    let seconds = outcome.elapsed_ns as f64 / 1e9;
    let report = PublishReport::new(&plan, &outcome).with_rooms(&outcome);
    Ok(Report {
        ok: report.is_clean(),
        publish: Some(report),
        server: ServerReport::between(
            [server_before, server_before, server_after],
            outcome.published,
        ),
        loadgen: LoadgenReport {
            workers: vec![WorkerReport::new(
                own_after.cpu.since(own_before.cpu),
                seconds,
            )],
            ..LoadgenReport::between(&own_before, &own_after, outcome.published)
        },
        course: watch.finish(),
        ..Report::empty()
    })
}

//! Somebody who has nothing to do with it: subscribed throughout, and none of what is published to
//! it may be missing, doubled, out of order or late beyond [`PATIENCE`].

use super::{Broker, Client, PATIENCE};
use ringcast::base::Content;
use ringcast::client::{Message, Upstream};
use ringcast::wire::upstream::AckLevel;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

const ROOM: &str = "bystander";

/// See the module.
pub(crate) struct Bystander {
    stop: Arc<AtomicBool>,
    publisher: JoinHandle<u64>,
    subscriber: JoinHandle<u64>,
}

impl Bystander {
    /// Subscribes and has something published every few milliseconds; returns when the first has
    /// come.
    pub(crate) fn start(broker: &Broker) -> Self {
        let mut client = Client::connect(broker.clients);
        client.subscribe(ROOM);
        let mut upstream = broker.upstream();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let publisher = std::thread::spawn(move || {
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                count += 1;
                publish(&mut upstream, &count.to_string());
                std::thread::sleep(Duration::from_millis(3));
            }
            publish(&mut upstream, "\"end\"");
            count
        });
        let (first, came) = mpsc::channel();
        let subscriber = std::thread::spawn(move || {
            for count in 1.. {
                let push = client.push();
                assert_eq!(push.offset, count, "a bystander's offsets have no gap");
                if push.data == json!("end") {
                    return count - 1;
                }
                assert_eq!(push.data, json!(count), "a bystander gets all in order");
                let _ = first.send(());
            }
            unreachable!("the publisher ends")
        });
        came.recv_timeout(PATIENCE)
            .expect("the bystander's first publication");
        Self {
            stop,
            publisher,
            subscriber,
        }
    }

    /// Stops publishing; panics unless everything has been received.
    pub(crate) fn was_undisturbed(self) {
        self.stop.store(true, Ordering::Relaxed);
        let published = self.publisher.join().expect("the bystander's publisher");
        let received = self.subscriber.join().expect("the bystander");
        assert_eq!(received, published, "the bystander's publications");
    }
}

fn publish(upstream: &mut Upstream, payload: &str) {
    let message = Message::new(Content::Json, payload.as_bytes(), AckLevel::Sequenced);
    upstream.publish(ROOM, &message).expect("publish");
}

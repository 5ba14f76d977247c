//! What services say of publications and ask of rooms, against a running broker.

mod support;

use ringcast::base::{Content, Offset};
use ringcast::client::{HistoryQuery, Message};
use ringcast::wire::upstream::AckLevel;
use serde_json::json;
use support::{Broker, Client};

#[test]
fn a_client_that_is_left_out_is_sent_everything_else() {
    let broker = Broker::start("--shards 2 --allow-anonymous");
    let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(broker.clients)).collect();
    for client in &mut clients {
        client.subscribe("room");
    }
    let mut upstream = broker.upstream();
    let plain = Message::new(Content::Json, b"2", AckLevel::Sequenced);
    for left_out in 0..clients.len() {
        let id = clients[left_out].id.clone();
        assert_eq!(id.len(), 32, "a public id");
        let message = Message {
            exclude: &id,
            tags: &[("to", "others")],
            ..Message::new(Content::Json, b"1", AckLevel::Sequenced)
        };
        upstream.publish("room", &message).expect("published");
        upstream.publish("room", &plain).expect("published");
        for (index, client) in clients.iter_mut().enumerate() {
            if index != left_out {
                let publication = client.document("a publication")["push"]["pub"].clone();
                assert_eq!(publication["data"], json!(1));
                assert_eq!(publication["tags"], json!({"to": "others"}));
            }
            let publication = client.document("a publication")["push"]["pub"].clone();
            assert_eq!(publication["data"], json!(2), "client {index}");
        }
    }
}

#[test]
fn who_was_left_out_of_a_publication_is_sent_the_next_one_whole_and_no_delta_of_it() {
    let broker = Broker::start(
        "--shards 1 --allow-anonymous --set channels.allowed_delta_types=fossil \
         --set channels.delta_publish=true",
    );
    let mut upstream = broker.upstream();
    let subscribe = || {
        let mut client = Client::connect(broker.clients);
        let command = json!({"subscribe": {"channel": "room", "delta": "fossil"}});
        let reply = client.command(command);
        assert_eq!(reply["subscribe"]["delta"], true, "{reply}");
        client
    };
    let text = |number: u32| format!(r#"{{"n":{number},"rest":"{}"}}"#, "x".repeat(200));
    let mut publish = |number: u32, exclude: &str| {
        let text = text(number);
        let message = Message {
            exclude,
            ..Message::new(Content::Json, text.as_bytes(), AckLevel::Sequenced)
        };
        upstream.publish("room", &message).expect("published");
    };
    // What a client is sent: the number of a whole one, or nothing of a delta.
    let heard = |client: &mut Client| {
        let publication = client.document("a publication")["push"]["pub"].clone();
        let data = publication["data"].as_str().expect("a string").to_owned();
        let whole = publication.get("delta").is_none();
        whole.then(|| serde_json::from_str::<serde_json::Value>(&data).expect("JSON")["n"].clone())
    };

    let (mut present, mut old) = (subscribe(), subscribe());
    publish(1, "");
    assert_eq!(
        (heard(&mut present), heard(&mut old)),
        (Some(json!(1)), Some(json!(1)))
    );
    let mut new = subscribe();
    // One that has what a delta starts from, and one that has nothing yet.
    publish(2, &old.id);
    publish(3, &new.id);
    publish(4, "");
    let four = |client: &mut Client| [heard(client), heard(client), heard(client)];
    assert_eq!(four(&mut present), [None, None, None], "deltas only");
    assert_eq!([heard(&mut old), heard(&mut old)], [Some(json!(3)), None]);
    assert_eq!(
        [heard(&mut new), heard(&mut new)],
        [Some(json!(2)), Some(json!(4))]
    );
    let mut fresh = subscribe();
    publish(5, &fresh.id);
    publish(6, "");
    assert_eq!(heard(&mut fresh), Some(json!(6)), "not 5");
}

#[test]
fn of_two_states_that_overtake_each_other_the_newer_one_stays() {
    let broker = Broker::start("--shards 2 --allow-anonymous");
    let mut client = Client::connect(broker.clients);
    client.subscribe("row");
    let mut upstream = broker.upstream();
    let mut publish = |version: u64, version_epoch: &str| {
        let payload = version.to_string();
        let message = Message {
            version,
            version_epoch,
            ..Message::new(Content::Json, payload.as_bytes(), AckLevel::Sequenced)
        };
        let receipt = upstream.publish("row", &message).expect("answered");
        (receipt.duplicate, receipt.offset.0)
    };
    assert_eq!(publish(7, "db-1"), (false, 1));
    assert_eq!(publish(6, "db-1"), (true, 1), "it comes too late");
    assert_eq!(publish(8, "db-1"), (false, 2));
    assert_eq!(publish(1, "db-2"), (false, 3), "another count");
    for expected in [7, 8, 1] {
        assert_eq!(client.push().data, expected);
    }
    broker.until("it counted", |metrics| {
        metrics.sum("publications_outdated_total") == 1
    });
}

#[test]
fn a_service_asks_who_is_there_and_what_was_said() {
    let broker = Broker::start(
        "--shards 2 --allow-anonymous --set channels.presence=true \
         --set channels.history_size=10 --set channels.history_ttl=1m \
         --set channels.allow_publish_for_client=true \
         --set channels.allow_publish_for_anonymous=true",
    );
    let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(broker.clients)).collect();
    for client in &mut clients {
        client.subscribe("room");
    }
    clients[0].publish("room", json!({"from": "a client"}));
    let mut upstream = broker.upstream();
    support::until("all to be present", || {
        let (clients, _) = upstream.presence_stats("room").expect("stats");
        (clients == 3).then_some(())
    });
    let mut present: Vec<String> = upstream
        .presence("room")
        .expect("presence")
        .into_iter()
        .map(|present| present.client)
        .collect();
    let mut ids: Vec<String> = clients.iter().map(|client| client.id.clone()).collect();
    present.sort();
    ids.sort();
    assert_eq!(present, ids);
    let channels = upstream.channels("r*m").expect("channels");
    assert_eq!(channels, [("room".to_owned(), 3)]);
    assert_eq!(upstream.channels("other*").expect("channels"), []);

    let receipt = upstream
        .publish(
            "room",
            &Message::new(Content::Json, b"2", AckLevel::Sequenced),
        )
        .expect("published");
    let query = HistoryQuery {
        limit: -1,
        ..HistoryQuery::default()
    };
    let page = upstream.history("room", &query).expect("history");
    assert_eq!((page.epoch, page.top), (receipt.epoch, Offset(2)));
    let publishers: Vec<Option<String>> = page
        .publications
        .into_iter()
        .map(|publication| publication.publisher.map(|client| client.client))
        .collect();
    assert_eq!(publishers, [Some(clients[0].id.clone()), None]);
    let epoch = receipt.epoch.text();
    let since = HistoryQuery {
        since: Some((epoch.as_str(), Offset(1))),
        ..query
    };
    let page = upstream.history("room", &since).expect("history");
    assert_eq!(page.publications.len(), 1);
    upstream.forget_history("room").expect("forgotten");
    let page = upstream.history("room", &query).expect("history");
    assert_eq!((page.publications.len(), page.top), (0, Offset(2)));
}

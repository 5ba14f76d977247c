//! Subscriptions that want only the publications whose tags match a filter, against a running broker.

mod support;

use ringcast::base::Content;
use ringcast::client::{Message, Upstream};
use ringcast::limits::FILTERS_PER_VIEW_MAX;
use ringcast::wire::upstream::AckLevel;
use serde_json::{Value, json};
use support::{Broker, Client};

fn broker(more: &str) -> Broker {
    Broker::start(&format!(
        "--shards 2 --allow-anonymous --set channels.allow_tags_filter=true \
         --set channels.allow_recovery=true {more}"
    ))
}

fn lang(lang: &str) -> Value {
    json!({"key": "lang", "cmp": "eq", "val": lang})
}

fn subscribe(client: &mut Client, filter: &Value) -> Value {
    client.command(json!({"subscribe": {"channel": "news", "tf": filter, "recoverable": true}}))
}

fn publish(upstream: &mut Upstream, number: u32, tags: &[(&str, &str)], exclude: &str) {
    let payload = number.to_string();
    let message = Message {
        tags,
        exclude,
        ..Message::new(Content::Json, payload.as_bytes(), AckLevel::Sequenced)
    };
    upstream.publish("news", &message).expect("published");
}

#[test]
fn a_subscriber_gets_what_its_filter_wants_and_nothing_else() {
    let broker = broker("");
    let mut upstream = broker.upstream();
    let filters = [
        lang("en"),
        lang("en"),
        lang("de"),
        json!({"op": "not", "nodes": [lang("en")]}),
        json!({"op": "or", "nodes": [lang("de"), {"key": "price", "cmp": "gt", "val": "9.5"}]}),
    ];
    let mut clients: Vec<Client> = filters
        .iter()
        .map(|filter| {
            let mut client = Client::connect(broker.clients);
            let reply = subscribe(&mut client, filter);
            assert!(reply.get("subscribe").is_some(), "{reply}");
            client
        })
        .collect();
    let mut everything = Client::connect(broker.clients);
    everything.subscribe("news");

    publish(&mut upstream, 1, &[("lang", "en")], "");
    publish(&mut upstream, 2, &[("lang", "de")], "");
    publish(&mut upstream, 3, &[], "");
    publish(&mut upstream, 4, &[("lang", "en"), ("price", "10")], "");
    publish(&mut upstream, 5, &[("lang", "de")], &clients[2].id);
    publish(&mut upstream, 6, &[("lang", "en")], &clients[2].id);
    publish(&mut upstream, 7, &[("lang", "fr")], "");
    publish(&mut upstream, 8, &[("lang", "en"), ("price", "9.5")], "");
    publish(&mut upstream, 9, &[("lang", "de")], "");
    for (client, expected) in clients.iter_mut().zip([
        &[1, 4, 6, 8][..],
        &[1, 4, 6, 8],
        &[2, 9],
        &[2, 3, 5, 7, 9],
        &[2, 4, 5, 9],
    ]) {
        for number in expected {
            assert_eq!(client.push().data, *number);
        }
    }
    for number in 1..=9 {
        assert_eq!(everything.push().data, number);
    }
    broker.until("every delivery counted", |metrics| {
        let count = |name| metrics.sum(name);
        // All 9, 19 of 5 times 9, and one that its subscriber would have been sent but for the exclusion.
        (count("deliveries_total"), count("filtered_total")) == (9 + 19, 5 * 9 - 19 - 1)
    });
}

#[test]
fn what_was_missed_is_given_again_as_the_filter_wants_it() {
    let broker = broker("");
    let mut upstream = broker.upstream();
    let mut client = Client::connect(broker.clients);
    let reply = subscribe(&mut client, &lang("en"))["subscribe"].clone();
    publish(&mut upstream, 1, &[("lang", "en")], "");
    assert_eq!(client.push().data, 1);
    drop(client);
    for number in 2..=5 {
        let lang = if number % 2 == 0 { "de" } else { "en" };
        publish(&mut upstream, number, &[("lang", lang)], "");
    }
    let mut client = Client::connect(broker.clients);
    let again = client.command(json!({"subscribe": {
        "channel": "news", "tf": lang("en"), "recoverable": true,
        "recover": true, "epoch": reply["epoch"], "offset": 1,
    }}));
    let again = &again["subscribe"];
    assert_eq!(again["recovered"], true, "{again}");
    let given = again["publications"].as_array().expect("a list");
    let given: Vec<_> = given
        .iter()
        .map(|one| (&one["data"], &one["offset"]))
        .collect();
    assert_eq!(given, [(&json!(3), &json!(3)), (&json!(5), &json!(5))]);
    publish(&mut upstream, 6, &[("lang", "de")], "");
    publish(&mut upstream, 7, &[("lang", "en")], "");
    assert_eq!(client.push().data, 7);
}

#[test]
fn what_is_no_filter_or_not_wanted_here_is_refused() {
    let broker = broker("--set channels.allowed_delta_types=fossil");
    let mut client = Client::connect(broker.clients);
    for bad in [
        json!({"op": "xor", "nodes": [lang("en")]}),
        json!({"key": "lang", "cmp": "like", "val": "e%"}),
        json!({"op": "not", "nodes": []}),
        json!("lang = en"),
    ] {
        let reply = subscribe(&mut client, &bad);
        assert_eq!(reply["error"]["code"], 107, "{bad}");
    }
    let both = json!({"subscribe": {"channel": "news", "tf": lang("en"), "delta": "fossil"}});
    assert_eq!(client.refused(both), 107, "deltas need every publication");
    let denied = Broker::start("--allow-anonymous");
    let mut client = Client::connect(denied.clients);
    assert_eq!(subscribe(&mut client, &lang("en"))["error"]["code"], 108);
}

#[test]
fn a_room_has_a_bounded_number_of_filters_and_takes_others_when_they_are_gone() {
    let broker =
        Broker::start("--shards 1 --allow-anonymous --set channels.allow_tags_filter=true");
    let mut clients: Vec<Client> = (0..FILTERS_PER_VIEW_MAX)
        .map(|number| {
            let mut client = Client::connect(broker.clients);
            let reply = subscribe(&mut client, &lang(&number.to_string()));
            assert!(reply.get("subscribe").is_some(), "{reply}");
            client
        })
        .collect();
    let mut late = Client::connect(broker.clients);
    assert_eq!(subscribe(&mut late, &lang("new"))["error"]["code"], 106);
    let known = subscribe(&mut late, &lang("7"));
    assert!(known.get("subscribe").is_some(), "{known}");
    late.unsubscribe("news");
    clients[9].unsubscribe("news");
    let reply = subscribe(&mut late, &lang("new"));
    assert!(reply.get("subscribe").is_some(), "{reply}");
    let mut upstream = broker.upstream();
    publish(&mut upstream, 1, &[("lang", "9")], "");
    publish(&mut upstream, 2, &[("lang", "new")], "");
    publish(&mut upstream, 3, &[("lang", "10")], "");
    assert_eq!(late.push().data, 2);
    assert_eq!(clients[10].push().data, 3);
}

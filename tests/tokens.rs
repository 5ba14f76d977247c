//! Who gets in and to what: connection and subscription tokens, private, user-limited and personal
//! channels, expiry and refresh, against a running broker.

mod support;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ringcast::base::Content;
use ringcast::client::Message;
use ringcast::limits::BAD_TOKENS_MAX;
use ringcast::wire::upstream::AckLevel;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};
use support::{Broker, Client, Heard};

const SECRET: &str = "the-secret-of-these-tests";

fn broker(more: &str) -> Broker {
    broker_with(2, more)
}

fn broker_with(shards: u16, more: &str) -> Broker {
    Broker::start(&format!(
        "--shards {shards} --set token.hmac_secrets={SECRET} --set channels.presence=true \
         --set channels.history_size=10 --set channels.history_ttl=1m \
         --set channels.allow_presence_for_subscriber=true --set channels.allow_subscribe_for_client=false \
         --set channels.allow_subscribe_for_anonymous=false {more}"
    ))
}

fn token(claims: Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).expect("a token")
}

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

/// The reply to a connect with these claims.
fn connect(broker: &Broker, claims: Value) -> (Client, Value) {
    let mut client = Client::open(broker.clients);
    let reply = client.command(json!({"connect": {"token": token(claims)}}));
    client.id = reply["connect"]["client"]
        .as_str()
        .unwrap_or_default()
        .into();
    (client, reply)
}

fn user(broker: &Broker, user: &str) -> Client {
    let (client, reply) = connect(broker, json!({"sub": user}));
    assert!(reply.get("connect").is_some(), "{reply}");
    client
}

fn publish(broker: &Broker, room: &str, payload: &str) {
    let message = Message::new(Content::Json, payload.as_bytes(), AckLevel::Sequenced);
    broker.upstream().publish(room, &message).expect("publish");
}

#[test]
fn a_token_is_needed_and_has_to_be_ours() {
    let broker = broker("");
    let mut without = Client::open(broker.clients);
    without.send(r#"{"id":1,"connect":{}}"#);
    assert_eq!(without.closed("no token"), (3501, "bad request".into()));
    for bad in [
        "x",
        "a.b.c",
        &token(json!({"sub": 7})),
        &token(json!({"channel": "a"})),
    ] {
        let mut client = Client::open(broker.clients);
        client.send(&json!({"id": 1, "connect": {"token": bad}}).to_string());
        assert_eq!(client.closed("a bad token"), (3500, "invalid token".into()));
    }
    let (mut expired, reply) = connect(&broker, json!({"sub": "42", "exp": now_s() - 1}));
    assert_eq!(reply["error"]["code"], 109, "{reply}");
    expired.send(r#"{"id":2,"subscribe":{"channel":"news"}}"#);
    assert_eq!(expired.closed("after an error to connect").0, 3501);
    let (_, anonymous) = connect(&broker, json!({}));
    assert!(anonymous.get("connect").is_some(), "a token without a user");
}

#[test]
fn publications_and_presence_say_who_it_is() {
    let broker = broker(
        "--set channels.allow_subscribe_for_client=true --set channels.allow_publish_for_subscriber=true",
    );
    let claims = json!({"sub": "42", "info": {"name": "Ann"}});
    let (mut client, _) = connect(&broker, claims);
    client.subscribe("chat");
    client.publish("chat", json!("hi"));
    let push = client.document("the own publication");
    let info = json!({"user": "42", "client": client.id, "conn_info": {"name": "Ann"}});
    assert_eq!(push["push"]["pub"]["info"], info);
    let presence = client.command(json!({"presence": {"channel": "chat"}}));
    let id = client.id.clone();
    assert_eq!(presence["presence"], json!({"presence": {id: info}}));
}

#[test]
fn a_private_channel_is_for_whoever_has_its_token() {
    let broker = broker("--set channels.allow_subscribe_for_client=true");
    let mut client = user(&broker, "42");
    assert_eq!(
        client.refused(json!({"subscribe": {"channel": "$room"}})),
        103
    );
    let subscribe = |client: &mut Client, claims: Value| {
        client.command(json!({"subscribe": {"channel": "$room", "token": token(claims)}}))
    };
    let wrong = json!({"subscribe": {"channel": "$room", "token": "a.b.c"}});
    assert_eq!(client.refused(wrong), 103, "a bad signature");
    let old = subscribe(
        &mut client,
        json!({"sub": "42", "channel": "$room", "exp": 1}),
    );
    assert_eq!(old["error"]["code"], 109);
    let good = json!({"sub": "42", "channel": "$room", "info": {"role": "host"}});
    let reply = subscribe(&mut client, good);
    assert_eq!(reply["subscribe"], json!({}));
    let presence = client.command(json!({"presence": {"channel": "$room"}}));
    let id = &client.id;
    assert_eq!(
        presence["presence"]["presence"][id]["chan_info"],
        json!({"role": "host"})
    );
    publish(&broker, "$room", "1");
    assert_eq!(client.push().data, 1);
    // Somebody else's token, or one of another channel, is an attack.
    for claims in [
        json!({"sub": "43", "channel": "$room"}),
        json!({"sub": "42", "channel": "$other"}),
        json!({"sub": "42", "channel": "$room", "client": "another"}),
    ] {
        let mut client = user(&broker, "42");
        let command = json!({"id": 9, "subscribe": {"channel": "$room", "token": token(claims)}});
        client.send(&command.to_string());
        assert_eq!(
            client.closed("a stolen token"),
            (3500, "invalid token".into())
        );
    }
}

#[test]
fn nobody_has_tokens_checked_for_ever() {
    let broker = broker("");
    let (mut client, mut bystander) = (user(&broker, "42"), user(&broker, "43"));
    let forged = json!({"subscribe": {"channel": "$room", "token": "a.b.c"}});
    for _ in 0..BAD_TOKENS_MAX {
        assert_eq!(client.refused(forged.clone()), 103);
    }
    client.send(r#"{"id":99,"subscribe":{"channel":"$room","token":"a.b.c"}}"#);
    let closed = client.closed("one bad token too many");
    assert_eq!(closed, (3509, "too many errors".into()));
    assert_eq!(bystander.refused(forged), 103, "nobody else is touched");
}

#[test]
fn a_user_limited_channel_is_for_the_users_in_its_name() {
    let broker = broker("--set channels.allow_user_limited_channels=true");
    let mut ann = user(&broker, "41");
    ann.subscribe("dialog#41,42");
    let mut other = user(&broker, "4");
    assert_eq!(
        other.refused(json!({"subscribe": {"channel": "dialog#41,42"}})),
        103
    );
    assert_eq!(
        other.refused(json!({"subscribe": {"channel": "open"}})),
        103,
        "no grant"
    );
}

#[test]
fn server_side_subscriptions_come_with_the_connect_reply_and_recover() {
    let broker = broker("--set client.subscribe_to_user_personal_channel=true");
    publish(&broker, "news", "0");
    let claims =
        || json!({"sub": "42", "channels": ["news"], "subs": {"side": {"data": {"a": 1}}}});
    let (mut client, reply) = connect(&broker, claims());
    let subs = &reply["connect"]["subs"];
    let names: Vec<&String> = subs.as_object().expect("subs").keys().collect();
    assert_eq!(names, ["#42", "news", "side"], "{reply}");
    assert_eq!(subs["news"]["offset"], 1);
    assert_eq!(subs["side"]["data"], json!({"a": 1}));
    let epoch = subs["news"]["epoch"].clone();
    publish(&broker, "#42", "\"for you\"");
    assert_eq!(client.push().data, "for you");
    client.close(None);
    client.closed("the close handshake");
    for payload in ["1", "2"] {
        publish(&broker, "news", payload);
    }
    let mut again = Client::open(broker.clients);
    let position = json!({"recover": true, "epoch": epoch, "offset": 1});
    let connect = json!({"token": token(claims()), "subs": {"news": position}});
    let reply = again.command(json!({"connect": connect}));
    let news = &reply["connect"]["subs"]["news"];
    assert_eq!(
        (&news["recovered"], &news["offset"]),
        (&json!(true), &json!(1)),
        "{reply}"
    );
    let offsets: Vec<u64> = news["publications"]
        .as_array()
        .expect("publications")
        .iter()
        .map(|publication| publication["offset"].as_u64().unwrap())
        .collect();
    assert_eq!(offsets, [2, 3]);
    publish(&broker, "news", "3");
    assert_eq!(
        again.push().offset,
        4,
        "live goes on behind what was missed"
    );
}

#[test]
fn an_expired_connection_is_closed_unless_it_is_refreshed() {
    let broker = broker("--set client.expired_close_delay=500ms");
    let expires = |in_s| json!({"sub": "42", "exp": now_s() + in_s});
    let (mut lazy, reply) = connect(&broker, expires(1));
    assert_eq!(reply["connect"]["expires"], true);
    assert!(
        reply["connect"]["ttl"]
            .as_u64()
            .is_some_and(|ttl| (1..=2).contains(&ttl))
    );
    let (mut client, _) = connect(&broker, expires(1));
    let id = client.id.clone();
    let reply = client.command(json!({"refresh": {"token": token(expires(3_600))}}));
    assert_eq!(
        reply["refresh"]["client"],
        json!(id),
        "the same id as before"
    );
    assert!(
        reply["refresh"]["ttl"]
            .as_u64()
            .is_some_and(|ttl| ttl > 3_000)
    );
    assert_eq!(
        lazy.closed("an expired connection"),
        (3005, "connection expired".into())
    );
    assert_eq!(client.refused(json!({"rpc": {}})), 108, "it lives on");
    // Tokens that are no refresh.
    for (claims, code) in [
        (json!({"sub": "43", "exp": now_s() + 9}), 3500),
        (json!({"sub": "42", "exp": 1}), 3005),
    ] {
        let (mut client, _) = connect(&broker, expires(3_600));
        let refresh = json!({"id": 2, "refresh": {"token": token(claims)}});
        client.send(&refresh.to_string());
        assert_eq!(client.closed("a bad refresh").0, code);
    }
}

#[test]
fn an_expired_subscription_ends_with_2501_unless_it_is_refreshed() {
    let broker = broker("--set client.expired_sub_close_delay=500ms");
    let mut client = user(&broker, "42");
    let claims = |channel, in_s| json!({"sub": "42", "channel": channel, "exp": now_s() + in_s});
    for channel in ["$short", "$kept"] {
        let token = token(claims(channel, 1));
        let reply = client.command(json!({"subscribe": {"channel": channel, "token": token}}));
        assert_eq!(reply["subscribe"]["expires"], true, "{reply}");
    }
    let fresh = token(claims("$kept", 3_600));
    let reply = client.command(json!({"sub_refresh": {"channel": "$kept", "token": fresh}}));
    assert!(
        reply["sub_refresh"]["ttl"]
            .as_u64()
            .is_some_and(|ttl| ttl > 3_000)
    );
    let past = token(json!({"sub": "42", "channel": "$kept", "exp": 1}));
    let refresh = json!({"sub_refresh": {"channel": "$kept", "token": past}});
    assert_eq!(client.refused(refresh), 110);
    let push = client.document("the end of the subscription");
    let ended = json!({"code": 2501, "reason": "subscription expired"});
    assert_eq!(
        push["push"],
        json!({"channel": "$short", "unsubscribe": ended})
    );
    publish(&broker, "$kept", "1");
    assert_eq!(client.push().channel, "$kept");
    let other = token(json!({"sub": "43", "channel": "$kept"}));
    let refresh = json!({"id": 99, "sub_refresh": {"channel": "$kept", "token": other}});
    client.send(&refresh.to_string());
    assert_eq!(
        client.closed("a stolen token"),
        (3500, "invalid token".into())
    );
    assert_eq!(client.hear("the end"), Heard::Ended);
}

#[test]
fn a_user_has_as_many_connections_as_it_may_on_all_shards_together() {
    let broker = broker_with(4, "--set client.user_connection_limit=3");
    let mut clients: Vec<Client> = (0..3).map(|_| user(&broker, "42")).collect();
    let one_more = || {
        let mut client = Client::open(broker.clients);
        let token = token(json!({"sub": "42"}));
        client.send(&json!({"id": 1, "connect": {"token": token}}).to_string());
        client
    };
    let closed = one_more().closed("one connection too many");
    assert_eq!(closed, (3504, "connection limit".into()));
    user(&broker, "43");
    let mut gone = clients.pop().unwrap();
    gone.close(None);
    gone.closed("the close handshake");
    support::until("a free place", || {
        let mut client = one_more();
        matches!(client.hear("the outcome"), Heard::Document(_)).then_some(())
    });
}

#[test]
fn a_connection_may_not_be_given_more_channels_than_it_may_have() {
    let broker = broker("--set client.channel_limit=2");
    let mut client = Client::open(broker.clients);
    let claims = json!({"sub": "42", "channels": ["a", "b", "c"]});
    client.send(&json!({"id": 1, "connect": {"token": token(claims)}}).to_string());
    assert_eq!(
        client.closed("too many channels"),
        (3505, "channel limit".into())
    );
}

#[test]
fn a_connect_that_fails_is_told_nothing_of_the_channels_that_came_with_it() {
    let broker = broker("--set client.stale_delay=500ms --set namespaces.known.presence=true");
    let claims = json!({"sub": "42", "channels": ["a", "b", "c", "d", "e", "f", "nowhere:g", "h"]});
    for _ in 0..2 {
        let (mut client, reply) = connect(&broker, claims.clone());
        assert_eq!(reply["error"]["code"], 102, "{reply}");
        publish(&broker, "a", "1");
        let next = client.hear("nothing but its time");
        assert!(matches!(next, Heard::Closed(3502, _)), "{next:?}");
    }
    broker.until("nobody subscribed", |metrics| {
        metrics.sum("subscriptions") == 0
    });
}

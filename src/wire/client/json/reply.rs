//! Replies and pushes as JSON.
//!
//! Each function appends one document, without the newline that separates documents in a message and
//! without a WebSocket header. Zero values are left out where the protocol allows it. Nothing is
//! formatted through `fmt` and nothing is allocated but what `out` grows by.

use super::value::{
    put, put_data_field, put_flag, put_key, put_number, put_number_field, put_string,
    put_string_field, separate, write_data,
};
use crate::base::Content;
use crate::wire::client::{
    ClientInfo, ConnectResult, Data, ErrorReply, Publication, Push, Reply, SubscribeResult, Tags,
};

/// Answers command `id`.
pub fn reply(out: &mut Vec<u8>, id: u32, reply: &Reply<'_>) {
    put(out, "{");
    put_number_field(out, r#""id":"#, u64::from(id));
    put_key(out, key_of_reply(reply));
    put(out, "{");
    match reply {
        Reply::Error(error) => put_error(out, error),
        Reply::Connect(result) => put_connect(out, result),
        Reply::Subscribe(result) => put_subscription(out, result),
        Reply::Unsubscribe | Reply::Publish => {}
        Reply::Presence(clients) => put_presence(out, clients),
        Reply::PresenceStats { clients, users } => {
            put(out, r#""num_clients":"#);
            put_number(out, u64::from(*clients));
            put(out, r#","num_users":"#);
            put_number(out, u64::from(*users));
        }
        Reply::History {
            publications,
            epoch,
            offset,
        } => {
            put(out, r#""publications":"#);
            put_publications(out, publications, false);
            put(out, r#","epoch":"#);
            put_string(out, epoch);
            put(out, r#","offset":"#);
            put_number(out, *offset);
        }
        Reply::Rpc(data) => put_data_field(out, r#""data":"#, *data),
        Reply::Refresh {
            client,
            version,
            ttl_s,
        } => {
            put_string_field(out, r#""client":"#, client);
            put_string_field(out, r#""version":"#, version);
            put_expiry(out, *ttl_s);
        }
        Reply::SubRefresh { ttl_s } => put_expiry(out, *ttl_s),
    }
    put(out, "}}");
}

/// Says something unasked. `channel` is left out when it is empty.
pub fn push(out: &mut Vec<u8>, channel: &str, push: &Push<'_>) {
    if let Push::Publication(publication) = push {
        out.reserve(publication.data.bytes.len() + channel.len() + 64);
    }
    put(out, r#"{"push":{"#);
    put_string_field(out, r#""channel":"#, channel);
    put_key(out, key_of_push(push));
    put(out, "{");
    match push {
        Push::Publication(publication) => put_publication(out, publication, publication.delta),
        Push::Join(info) | Push::Leave(info) => {
            put(out, r#""info":{"#);
            put_info(out, info);
            put(out, "}");
        }
        Push::Unsubscribe { code, reason } => {
            put_number_field(out, r#""code":"#, u64::from(*code));
            put_string_field(out, r#""reason":"#, reason);
        }
        Push::Subscribe(result) => put_subscription(out, result),
        Push::Message(data) => put_data_field(out, r#""data":"#, *data),
        Push::Refresh { ttl_s } => put_expiry(out, *ttl_s),
    }
    put(out, "}}}");
}

/// Asks for a pong.
pub fn ping(out: &mut Vec<u8>) {
    put(out, "{}");
}

fn key_of_reply(reply: &Reply<'_>) -> &'static str {
    match reply {
        Reply::Error(_) => r#""error":"#,
        Reply::Connect(_) => r#""connect":"#,
        Reply::Subscribe(_) => r#""subscribe":"#,
        Reply::Unsubscribe => r#""unsubscribe":"#,
        Reply::Publish => r#""publish":"#,
        Reply::Presence(_) => r#""presence":"#,
        Reply::PresenceStats { .. } => r#""presence_stats":"#,
        Reply::History { .. } => r#""history":"#,
        Reply::Rpc(_) => r#""rpc":"#,
        Reply::Refresh { .. } => r#""refresh":"#,
        Reply::SubRefresh { .. } => r#""sub_refresh":"#,
    }
}

fn key_of_push(push: &Push<'_>) -> &'static str {
    match push {
        Push::Publication(_) => r#""pub":"#,
        Push::Join(_) => r#""join":"#,
        Push::Leave(_) => r#""leave":"#,
        Push::Unsubscribe { .. } => r#""unsubscribe":"#,
        Push::Subscribe(_) => r#""subscribe":"#,
        Push::Message(_) => r#""message":"#,
        Push::Refresh { .. } => r#""refresh":"#,
    }
}

fn put_error(out: &mut Vec<u8>, error: &ErrorReply<'_>) {
    put_number_field(out, r#""code":"#, u64::from(error.code));
    put_string_field(out, r#""message":"#, error.message);
    put_flag(out, r#""temporary":"#, error.temporary);
}

fn put_connect(out: &mut Vec<u8>, result: &ConnectResult<'_>) {
    put_string_field(out, r#""client":"#, result.client);
    put_string_field(out, r#""version":"#, result.version);
    put_expiry(out, result.ttl_s);
    put_data_field(out, r#""data":"#, result.data);
    if !result.subs.is_empty() {
        put_key(out, r#""subs":{"#);
        for (channel, subscription) in result.subs {
            separate(out);
            put_string(out, channel);
            put(out, ":{");
            put_subscription(out, subscription);
            put(out, "}");
        }
        put(out, "}");
    }
    put_number_field(out, r#""ping":"#, u64::from(result.ping_s));
    put_flag(out, r#""pong":"#, result.pong);
}

fn put_subscription(out: &mut Vec<u8>, result: &SubscribeResult<'_>) {
    put_expiry(out, result.ttl_s);
    put_flag(out, r#""recoverable":"#, result.recoverable);
    put_flag(out, r#""positioned":"#, result.positioned);
    put_string_field(out, r#""epoch":"#, result.epoch);
    put_number_field(out, r#""offset":"#, result.offset);
    put_flag(out, r#""recovered":"#, result.recovered);
    put_flag(out, r#""was_recovering":"#, result.was_recovering);
    if !result.publications.is_empty() {
        put_key(out, r#""publications":"#);
        put_publications(out, result.publications, result.delta);
    }
    put_data_field(out, r#""data":"#, result.data);
    put_flag(out, r#""delta":"#, result.delta);
}

/// Clients want a lifetime above zero whenever they are told that there is one.
fn put_expiry(out: &mut Vec<u8>, ttl_s: u32) {
    put_flag(out, r#""expires":"#, ttl_s > 0);
    put_number_field(out, r#""ttl":"#, u64::from(ttl_s));
}

fn put_presence(out: &mut Vec<u8>, clients: &[ClientInfo<'_>]) {
    put(out, r#""presence":{"#);
    for info in clients {
        separate(out);
        put_string(out, info.client);
        put(out, ":{");
        put_info(out, info);
        put(out, "}");
    }
    put(out, "}");
}

fn put_publications(out: &mut Vec<u8>, publications: &[Publication<'_>], as_strings: bool) {
    put(out, "[");
    for publication in publications {
        separate(out);
        put(out, "{");
        put_publication(out, publication, as_strings);
        put(out, "}");
    }
    put(out, "]");
}

/// The fields of a publication. With `as_string` a JSON document is written as a string, which is how
/// clients that take deltas want it, since they patch its text.
fn put_publication(out: &mut Vec<u8>, publication: &Publication<'_>, as_string: bool) {
    let data = publication.data;
    if as_string && !publication.delta {
        let mut text = Vec::new();
        write_data(&mut text, data);
        let text = Data {
            content: Content::Text,
            bytes: &text,
        };
        put_data_field(out, r#""data":"#, text);
    } else if data.bytes.is_empty() {
        // Text and bytes may be empty, and a publication has data all the same.
        put_key(out, r#""data":"""#);
    } else {
        put_data_field(out, r#""data":"#, data);
    }
    if let Some(info) = &publication.info {
        put_key(out, r#""info":{"#);
        put_info(out, info);
        put(out, "}");
    }
    put_number_field(out, r#""offset":"#, publication.offset);
    put_tags(out, publication.tags);
    put_flag(out, r#""delta":"#, publication.delta);
}

fn put_tags(out: &mut Vec<u8>, tags: Tags<'_>) {
    if tags.is_empty() {
        return;
    }
    put_key(out, r#""tags":{"#);
    for (key, value) in tags.iter() {
        separate(out);
        put_string(out, key);
        put(out, ":");
        put_string(out, value);
    }
    put(out, "}");
}

/// The fields of a client's info; user and client are always there.
fn put_info(out: &mut Vec<u8>, info: &ClientInfo<'_>) {
    put(out, r#""user":"#);
    put_string(out, info.user);
    put(out, r#","client":"#);
    put_string(out, info.client);
    put_data_field(out, r#""conn_info":"#, info.conn_info);
    put_data_field(out, r#""chan_info":"#, info.chan_info);
}

#[cfg(test)]
mod tests;

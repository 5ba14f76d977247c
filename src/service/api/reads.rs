//! Methods about channels that only ask, and `history_remove`.

use super::call::Call;
use super::error::{Answer, ApiError, nothing};
use super::fields::Fields;
use crate::base::Offset;
use crate::limits;
use crate::mesh::{HistoryRead, Request};
use crate::service::tasks::Outcome;
use crate::wire::client::{ClientInfo, ErrorCode, Publication, Reply, flat, json};
use crate::wire::upstream::take_channel;
use std::collections::BTreeMap;

pub(super) async fn presence(call: &Call<'_>, fields: &Fields<'_>) -> Answer {
    let channel = channel_with_presence(call, fields)?;
    let room = channel.as_str();
    let outcome = call.answer(room, |reply| Request::Presence { room, reply });
    match outcome.await? {
        Outcome::Presence {
            complete: true,
            infos,
        } => {
            let infos: Vec<ClientInfo<'_>> = flat::infos(&infos).collect();
            Ok(result(&Reply::Presence(&infos)))
        }
        Outcome::Presence { .. } => Err(ApiError::new(
            ErrorCode::LimitExceeded,
            "too many clients for one answer; presence_stats counts them",
        )),
        other => Err(call.unexpected(&other)),
    }
}

pub(super) async fn presence_stats(call: &Call<'_>, fields: &Fields<'_>) -> Answer {
    let channel = channel_with_presence(call, fields)?;
    let room = channel.as_str();
    let outcome = call.answer(room, |reply| Request::PresenceStats { room, reply });
    match outcome.await? {
        Outcome::PresenceStats { clients, users } => {
            Ok(result(&Reply::PresenceStats { clients, users }))
        }
        other => Err(call.unexpected(&other)),
    }
}

pub(super) async fn history(call: &Call<'_>, fields: &Fields<'_>) -> Answer {
    let channel = channel_with_history(call, fields)?;
    let limit = fields.integer("limit")?;
    let reverse = fields.flag("reverse")?;
    let since = fields.position("since")?;
    if reverse && since.is_some_and(|since| since.offset == Offset(0)) {
        return Err(fields.refuse("since.offset", "above 0 expected with reverse"));
    }
    // Negative: all.
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    let read = HistoryRead::Page {
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
        since,
        reverse,
    };
    let room = channel.as_str();
    let outcome = call.answer(room, |reply| Request::History { room, read, reply });
    match outcome.await? {
        Outcome::History {
            recovered: false, ..
        } => Err(ErrorCode::Unrecoverable.into()),
        Outcome::History {
            epoch,
            top,
            publications,
            ..
        } => {
            let publications: Vec<Publication<'_>> = flat::publications(&publications).collect();
            Ok(result(&Reply::History {
                publications: &publications,
                epoch: epoch.text().as_str(),
                offset: top.0,
            }))
        }
        other => Err(call.unexpected(&other)),
    }
}

pub(super) async fn history_remove(call: &Call<'_>, fields: &Fields<'_>) -> Answer {
    let channel = channel_with_history(call, fields)?;
    let room = channel.as_str();
    let outcome = call.answer(room, |reply| Request::ForgetHistory { room, reply });
    match outcome.await? {
        Outcome::Done => nothing(),
        other => Err(call.unexpected(&other)),
    }
}

/// Channels with subscribers, wherever these are.
pub(super) async fn channels(call: &Call<'_>, fields: &Fields<'_>) -> Answer {
    let pattern = fields.short_text("pattern", limits::ROOM_NAME_MAX)?;
    let pattern = pattern.as_deref().unwrap_or_default();
    let node = &call.shared.node;
    let ticket = call.ask(node.shards().count())?;
    let reply = ticket.reply();
    let request = Request::Rooms { pattern, reply };
    for shard in node.shards() {
        let sent = node.request_shard_in_time(shard, &request, call.deadline);
        sent.await?;
    }
    let mut subscribers = BTreeMap::new();
    for outcome in ticket.outcomes(call.deadline).await? {
        match outcome {
            Outcome::Rooms {
                complete: true,
                rooms,
            } => add_rooms(&mut subscribers, &rooms),
            Outcome::Rooms { .. } => {
                let detail = "too many channels for one answer; a pattern chooses among them";
                return Err(ApiError::new(ErrorCode::LimitExceeded, detail));
            }
            other => return Err(call.unexpected(&other)),
        }
    }
    let mut out = br#"{"channels":{"#.to_vec();
    for (index, (name, num_clients)) in subscribers.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let name = serde_json::to_string(name).expect("strings are JSON");
        let entry = format!("{comma}{name}:{{\"num_clients\":{num_clients}}}");
        out.extend_from_slice(entry.as_bytes());
    }
    out.extend_from_slice(b"}}");
    Ok(out)
}

/// Adds what one shard said.
fn add_rooms(subscribers: &mut BTreeMap<String, u64>, mut rooms: &[u8]) {
    while let Some((name, count)) = take_channel(&mut rooms) {
        *subscribers.entry(name.to_owned()).or_default() += u64::from(count);
    }
}

fn channel_with_presence(call: &Call<'_>, fields: &Fields<'_>) -> Result<String, ApiError> {
    let channel = fields.text("channel")?.unwrap_or_default();
    if call.channel(&channel)?.presence {
        return Ok(channel);
    }
    let detail = "the channel's namespace has no presence";
    Err(ApiError::new(ErrorCode::NotAvailable, detail))
}

fn channel_with_history(call: &Call<'_>, fields: &Fields<'_>) -> Result<String, ApiError> {
    let channel = fields.text("channel")?.unwrap_or_default();
    if call.channel(&channel)?.history {
        return Ok(channel);
    }
    let detail = "the channel's namespace has no history";
    Err(ApiError::new(ErrorCode::NotAvailable, detail))
}

/// A result that has the form of a client's reply: what stands behind the reply's only name.
fn result(reply: &Reply<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    json::reply(&mut out, 0, reply);
    let start = out
        .iter()
        .position(|byte| *byte == b':')
        .map_or(0, |at| at + 1);
    out.pop();
    out.drain(..start);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_of_several_shards_are_one_list() {
        let mut subscribers = BTreeMap::new();
        let mut rooms = b"\x01\0a\x02\0\0\0\x02\0bc\x01\0\0\0".to_vec();
        add_rooms(&mut subscribers, &rooms);
        rooms.truncate(7);
        add_rooms(&mut subscribers, &rooms);
        add_rooms(&mut subscribers, b"\x09\0a");
        let expected = [("a".to_owned(), 4), ("bc".to_owned(), 1)];
        assert!(subscribers.into_iter().eq(expected));
    }

    #[test]
    fn results_have_no_name_of_a_reply() {
        let stats = Reply::PresenceStats {
            clients: 2,
            users: 1,
        };
        assert_eq!(result(&stats), br#"{"num_clients":2,"num_users":1}"#);
        assert_eq!(result(&Reply::Presence(&[])), br#"{"presence":{}}"#);
    }
}

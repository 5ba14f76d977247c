//! What the played shards answer to questions of the server API. Rooms whose name begins with `silent`
//! are not answered for, those that begin with `crowd` are too large for an answer, and histories of those
//! that begin with `full` are refused.

use super::Knobs;
use ringcast::base::{Content, Epoch, NodeId, Offset};
use ringcast::mesh::{Delivery, HistoryRead, Outlets, ReplyTo, Request};
use ringcast::wire::client::{ClientInfo, Data, Publication, Tags, flat};

/// Epoch of every room.
const EPOCH: Epoch = Epoch(7);

/// Notes the request and answers it.
pub(super) fn answer(request: &Request<'_>, knobs: &Knobs, outlets: &mut Outlets, to: NodeId) {
    let nobody = ReplyTo::Nobody;
    match *request {
        Request::History { room, read, reply } => {
            let reply_to = nobody;
            knobs.note(&Request::History {
                room,
                read,
                reply: reply_to,
            });
            if room.starts_with("silent") {
                return;
            }
            if room.starts_with("full") {
                outlets.deliver(to, &Delivery::Refused { reply }).unwrap();
                return;
            }
            let is_other = matches!(
                read,
                HistoryRead::Page { since: Some(since), .. }
                    if since.epoch.is_some_and(|epoch| epoch != EPOCH)
            );
            let publications = history();
            let delivery = Delivery::History {
                reply,
                epoch: EPOCH,
                top: Offset(3),
                recovered: !is_other,
                publications: if is_other { &[] } else { &publications },
            };
            outlets.deliver(to, &delivery).unwrap();
        }
        Request::Presence { room, reply } => {
            knobs.note(&Request::Presence {
                room,
                reply: nobody,
            });
            let complete = !room.starts_with("crowd");
            let infos = presence();
            let delivery = Delivery::Presence {
                reply,
                complete,
                infos: if complete { &infos } else { &[] },
            };
            outlets.deliver(to, &delivery).unwrap();
        }
        Request::PresenceStats { room, reply } => {
            knobs.note(&Request::PresenceStats {
                room,
                reply: nobody,
            });
            let delivery = Delivery::PresenceStats {
                reply,
                clients: 2,
                users: 1,
            };
            outlets.deliver(to, &delivery).unwrap();
        }
        Request::ForgetHistory { room, reply } => {
            knobs.note(&Request::ForgetHistory {
                room,
                reply: nobody,
            });
            outlets.deliver(to, &Delivery::Done { reply }).unwrap();
        }
        Request::Rooms { pattern, reply } => {
            knobs.note(&Request::Rooms {
                pattern,
                reply: nobody,
            });
            let delivery = Delivery::Rooms {
                reply,
                complete: !pattern.starts_with("crowd"),
                rooms: b"\x04\0both\x02\0\0\0\x02\0\"q\x01\0\0\0",
            };
            outlets.deliver(to, &delivery).unwrap();
        }
        other => panic!("not for a shard: {other:?}"),
    }
}

fn history() -> Vec<u8> {
    let (mut tags, mut flat) = (Vec::new(), Vec::new());
    flat::push_tag(&mut tags, "lang", "en");
    let publication = Publication {
        offset: 1,
        data: Data {
            content: Content::Json,
            bytes: br#"{"n": 1}"#,
        },
        info: None,
        tags: Tags::from_flat(&tags),
        delta: false,
    };
    flat::push_publication(&mut flat, &publication);
    flat
}

fn presence() -> Vec<u8> {
    let mut flat = Vec::new();
    let info = ClientInfo {
        user: "42",
        client: "c1",
        conn_info: Data {
            content: Content::Json,
            bytes: b"{\"name\":\"A\"}",
        },
        chan_info: Data::default(),
    };
    flat::push_info(&mut flat, &info);
    flat
}

//! Replies in Protobuf: worked documents, bounds and what is refused.

use super::*;
use crate::base::Content;
use crate::wire::client::flat::push_tag;
use crate::wire::client::{Data, ErrorCode, Tags};
use prost::Message as _;

/// The protocol's schema, read back by derived code that shares nothing with the writer.
mod schema {
    use prost::Message;
    use std::collections::BTreeMap;

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Reply {
        #[prost(uint32, tag = "1")]
        pub(super) id: u32,
        #[prost(message, optional, tag = "2")]
        pub(super) error: Option<Error>,
        #[prost(message, optional, tag = "4")]
        pub(super) push: Option<Push>,
        #[prost(message, optional, tag = "5")]
        pub(super) connect: Option<Connect>,
        #[prost(message, optional, tag = "6")]
        pub(super) subscribe: Option<Subscribe>,
        #[prost(message, optional, tag = "7")]
        pub(super) unsubscribe: Option<Empty>,
        #[prost(message, optional, tag = "8")]
        pub(super) publish: Option<Empty>,
        #[prost(message, optional, tag = "9")]
        pub(super) presence: Option<Presence>,
        #[prost(message, optional, tag = "10")]
        pub(super) presence_stats: Option<PresenceStats>,
        #[prost(message, optional, tag = "11")]
        pub(super) history: Option<History>,
        #[prost(message, optional, tag = "13")]
        pub(super) rpc: Option<OfData>,
        #[prost(message, optional, tag = "14")]
        pub(super) refresh: Option<Refresh>,
        #[prost(message, optional, tag = "15")]
        pub(super) sub_refresh: Option<SubRefresh>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Error {
        #[prost(uint32, tag = "1")]
        pub(super) code: u32,
        #[prost(string, tag = "2")]
        pub(super) message: String,
        #[prost(bool, tag = "3")]
        pub(super) temporary: bool,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Push {
        #[prost(string, tag = "2")]
        pub(super) channel: String,
        #[prost(message, optional, tag = "4")]
        pub(super) publication: Option<Publication>,
        #[prost(message, optional, tag = "5")]
        pub(super) join: Option<OfInfo>,
        #[prost(message, optional, tag = "6")]
        pub(super) leave: Option<OfInfo>,
        #[prost(message, optional, tag = "7")]
        pub(super) unsubscribe: Option<Unsubscribe>,
        #[prost(message, optional, tag = "8")]
        pub(super) message: Option<OfData>,
        #[prost(message, optional, tag = "9")]
        pub(super) subscribe: Option<SubscribePush>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Connect {
        #[prost(string, tag = "1")]
        pub(super) client: String,
        #[prost(string, tag = "2")]
        pub(super) version: String,
        #[prost(bool, tag = "3")]
        pub(super) expires: bool,
        #[prost(uint32, tag = "4")]
        pub(super) ttl: u32,
        #[prost(bytes = "vec", tag = "5")]
        pub(super) data: Vec<u8>,
        #[prost(btree_map = "string, message", tag = "6")]
        pub(super) subs: BTreeMap<String, Subscribe>,
        #[prost(uint32, tag = "7")]
        pub(super) ping: u32,
        #[prost(bool, tag = "8")]
        pub(super) pong: bool,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Subscribe {
        #[prost(bool, tag = "1")]
        pub(super) expires: bool,
        #[prost(uint32, tag = "2")]
        pub(super) ttl: u32,
        #[prost(bool, tag = "3")]
        pub(super) recoverable: bool,
        #[prost(string, tag = "6")]
        pub(super) epoch: String,
        #[prost(message, repeated, tag = "7")]
        pub(super) publications: Vec<Publication>,
        #[prost(bool, tag = "8")]
        pub(super) recovered: bool,
        #[prost(uint64, tag = "9")]
        pub(super) offset: u64,
        #[prost(bool, tag = "10")]
        pub(super) positioned: bool,
        #[prost(bytes = "vec", tag = "11")]
        pub(super) data: Vec<u8>,
        #[prost(bool, tag = "12")]
        pub(super) was_recovering: bool,
        #[prost(bool, tag = "13")]
        pub(super) delta: bool,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct SubscribePush {
        #[prost(bool, tag = "1")]
        pub(super) recoverable: bool,
        #[prost(string, tag = "4")]
        pub(super) epoch: String,
        #[prost(uint64, tag = "5")]
        pub(super) offset: u64,
        #[prost(bool, tag = "6")]
        pub(super) positioned: bool,
        #[prost(bytes = "vec", tag = "7")]
        pub(super) data: Vec<u8>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Unsubscribe {
        #[prost(uint32, tag = "2")]
        pub(super) code: u32,
        #[prost(string, tag = "3")]
        pub(super) reason: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Publication {
        #[prost(bytes = "vec", tag = "4")]
        pub(super) data: Vec<u8>,
        #[prost(message, optional, tag = "5")]
        pub(super) info: Option<ClientInfo>,
        #[prost(uint64, tag = "6")]
        pub(super) offset: u64,
        #[prost(btree_map = "string, string", tag = "7")]
        pub(super) tags: BTreeMap<String, String>,
        #[prost(bool, tag = "8")]
        pub(super) delta: bool,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct ClientInfo {
        #[prost(string, tag = "1")]
        pub(super) user: String,
        #[prost(string, tag = "2")]
        pub(super) client: String,
        #[prost(bytes = "vec", tag = "3")]
        pub(super) conn_info: Vec<u8>,
        #[prost(bytes = "vec", tag = "4")]
        pub(super) chan_info: Vec<u8>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct OfInfo {
        #[prost(message, optional, tag = "1")]
        pub(super) info: Option<ClientInfo>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct OfData {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) data: Vec<u8>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Presence {
        #[prost(btree_map = "string, message", tag = "1")]
        pub(super) presence: BTreeMap<String, ClientInfo>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct PresenceStats {
        #[prost(uint32, tag = "1")]
        pub(super) num_clients: u32,
        #[prost(uint32, tag = "2")]
        pub(super) num_users: u32,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct History {
        #[prost(message, repeated, tag = "1")]
        pub(super) publications: Vec<Publication>,
        #[prost(string, tag = "2")]
        pub(super) epoch: String,
        #[prost(uint64, tag = "3")]
        pub(super) offset: u64,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Refresh {
        #[prost(string, tag = "1")]
        pub(super) client: String,
        #[prost(string, tag = "2")]
        pub(super) version: String,
        #[prost(bool, tag = "3")]
        pub(super) expires: bool,
        #[prost(uint32, tag = "4")]
        pub(super) ttl: u32,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct SubRefresh {
        #[prost(bool, tag = "1")]
        pub(super) expires: bool,
        #[prost(uint32, tag = "2")]
        pub(super) ttl: u32,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Empty {}
}

/// What clients read; all bytes belong to one message, and the derived code would write as many, so
/// nothing is there that the schema does not know.
fn read(write: impl FnOnce(&mut Vec<u8>)) -> schema::Reply {
    let mut out = Vec::new();
    write(&mut out);
    let mut bytes = out.as_slice();
    let reply = schema::Reply::decode_length_delimited(&mut bytes).expect("a reply");
    assert!(bytes.is_empty(), "one message");
    assert_eq!(
        reply.encoded_len(),
        out.len() - prost::length_delimiter_len(reply.encoded_len())
    );
    reply
}

fn replied(value: &Reply<'_>) -> schema::Reply {
    read(|out| reply(out, 7, value))
}

fn pushed(channel: &str, value: &Push<'_>) -> schema::Push {
    let reply = read(|out| push(out, channel, value));
    assert_eq!(reply.id, 0);
    reply.push.expect("a push")
}

fn hex(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    out.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn data(bytes: &[u8]) -> Data<'_> {
    Data {
        content: Content::Bytes,
        bytes,
    }
}

const INFO: ClientInfo<'_> = ClientInfo {
    user: "42",
    client: "c1",
    conn_info: Data {
        content: Content::Json,
        bytes: b"{}",
    },
    chan_info: Data {
        content: Content::Bytes,
        bytes: &[0xff],
    },
};

fn info_read() -> schema::ClientInfo {
    schema::ClientInfo {
        user: "42".into(),
        client: "c1".into(),
        conn_info: b"{}".to_vec(),
        chan_info: vec![0xff],
    }
}

fn expect(fill: impl FnOnce(&mut schema::Reply)) -> schema::Reply {
    let mut reply = schema::Reply {
        id: 7,
        ..schema::Reply::default()
    };
    fill(&mut reply);
    reply
}

#[test]
fn replies_and_pushes_are_the_protocols_worked_frames() {
    let connect = ConnectResult {
        client: "c1",
        ping_s: 25,
        pong: true,
        ..ConnectResult::default()
    };
    assert_eq!(
        hex(|out| reply(out, 1, &Reply::Connect(&connect))),
        "0c08012a080a02633138194001"
    );
    assert_eq!(
        hex(|out| reply(out, 2, &Reply::Subscribe(&SubscribeResult::default()))),
        "0408023200"
    );
    let publication = Publication {
        offset: 1,
        data: data(br#"{"a":1}"#),
        ..Publication::default()
    };
    assert_eq!(
        hex(|out| push(out, "news", &Push::Publication(&publication))),
        "15221312046e657773220b22077b2261223a317d3001"
    );
    let unsubscribe = Push::Unsubscribe {
        code: 2500,
        reason: "insufficient state",
    };
    assert_eq!(
        hex(|out| push(out, "news", &unsubscribe)),
        "21221f12046e6577733a1710c4131a12696e73756666696369656e74207374617465"
    );
    assert_eq!(
        hex(|out| push(out, "", &Push::Refresh { ttl_s: 60 })),
        "08220662040801103c"
    );
    assert_eq!(
        hex(|out| reply(out, 3, &Reply::Error(ErrorCode::NotAvailable.into()))),
        "1508031211086c120d6e6f7420617661696c61626c65"
    );
    let here = ClientInfo {
        user: "42",
        client: "c1",
        ..ClientInfo::default()
    };
    assert_eq!(
        hex(|out| reply(out, 4, &Reply::Presence(&[here]))),
        "1408044a100a0e0a02633112080a02343212026331"
    );
    assert_eq!(hex(ping), "00");
}

#[test]
fn every_field_of_a_publication_is_read_back() {
    let mut tags = Vec::new();
    push_tag(&mut tags, "lang", "en");
    push_tag(&mut tags, "", "");
    let payload = vec![7; 70_000];
    let publication = Publication {
        offset: u64::MAX,
        data: data(&payload),
        info: Some(INFO),
        tags: Tags::from_flat(&tags),
        delta: true,
    };
    let expected = schema::Publication {
        data: payload.clone(),
        info: Some(info_read()),
        offset: u64::MAX,
        tags: [("lang", "en"), ("", "")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        delta: true,
    };
    let push = pushed("news", &Push::Publication(&publication));
    assert_eq!(push.channel, "news");
    assert_eq!(push.publication.as_ref(), Some(&expected));

    let history = replied(&Reply::History {
        publications: &[publication, Publication::default()],
        epoch: "e",
        offset: 9,
    });
    let publications = vec![expected, schema::Publication::default()];
    let expected = schema::History {
        publications,
        epoch: "e".into(),
        offset: 9,
    };
    assert_eq!(history, expect(|reply| reply.history = Some(expected)));
}

#[test]
fn every_field_of_connect_and_subscribe_is_read_back() {
    let publications = [Publication {
        offset: 3,
        ..Publication::default()
    }];
    let result = SubscribeResult {
        ttl_s: 60,
        recoverable: true,
        positioned: true,
        epoch: "e",
        offset: 2,
        recovered: true,
        was_recovering: true,
        publications: &publications,
        data: data(&[1]),
        delta: true,
    };
    let subscribe = schema::Subscribe {
        expires: true,
        ttl: 60,
        recoverable: true,
        epoch: "e".into(),
        publications: vec![schema::Publication {
            offset: 3,
            ..schema::Publication::default()
        }],
        recovered: true,
        offset: 2,
        positioned: true,
        data: vec![1],
        was_recovering: true,
        delta: true,
    };
    let expected = expect(|reply| reply.subscribe = Some(subscribe.clone()));
    assert_eq!(replied(&Reply::Subscribe(&result)), expected);
    let subscribe_push = schema::SubscribePush {
        recoverable: true,
        epoch: "e".into(),
        offset: 2,
        positioned: true,
        data: vec![1],
    };
    let push = pushed("c", &Push::Subscribe(&result));
    assert_eq!(push.subscribe, Some(subscribe_push));

    let sparse = SubscribeResult {
        was_recovering: true,
        ..SubscribeResult::default()
    };
    let subs = [("a", result), ("b", sparse)];
    let connect = ConnectResult {
        client: "c1",
        version: "v",
        ttl_s: 5,
        data: data(&[2]),
        subs: &subs,
        ping_s: 25,
        pong: true,
    };
    let expected = schema::Connect {
        client: "c1".into(),
        version: "v".into(),
        expires: true,
        ttl: 5,
        data: vec![2],
        subs: [
            ("a".to_owned(), subscribe),
            (
                "b".to_owned(),
                schema::Subscribe {
                    was_recovering: true,
                    ..schema::Subscribe::default()
                },
            ),
        ]
        .into(),
        ping: 25,
        pong: true,
    };
    let expected = expect(|reply| reply.connect = Some(expected));
    assert_eq!(replied(&Reply::Connect(&connect)), expected);
}

#[test]
fn every_field_of_the_other_replies_is_read_back() {
    let error = Reply::Error(ErrorCode::Internal.into());
    let expected = schema::Error {
        code: 100,
        message: "internal server error".into(),
        temporary: true,
    };
    assert_eq!(
        replied(&error),
        expect(|reply| reply.error = Some(expected))
    );
    let presence = [("c1".to_owned(), info_read())].into();
    assert_eq!(
        replied(&Reply::Presence(&[INFO])),
        expect(|reply| reply.presence = Some(schema::Presence { presence }))
    );
    let stats = Reply::PresenceStats {
        clients: 3,
        users: 2,
    };
    let expected = schema::PresenceStats {
        num_clients: 3,
        num_users: 2,
    };
    assert_eq!(
        replied(&stats),
        expect(|reply| reply.presence_stats = Some(expected))
    );
    assert_eq!(
        replied(&Reply::Rpc(data(&[1]))),
        expect(|reply| reply.rpc = Some(schema::OfData { data: vec![1] }))
    );
    let refresh = Reply::Refresh {
        client: "c1",
        version: "v",
        ttl_s: 3600,
    };
    let expected = schema::Refresh {
        client: "c1".into(),
        version: "v".into(),
        expires: true,
        ttl: 3600,
    };
    assert_eq!(
        replied(&refresh),
        expect(|reply| reply.refresh = Some(expected))
    );
    let expected = schema::SubRefresh {
        expires: true,
        ttl: 600,
    };
    assert_eq!(
        replied(&Reply::SubRefresh { ttl_s: 600 }),
        expect(|reply| reply.sub_refresh = Some(expected))
    );
}

#[test]
fn an_empty_result_is_present() {
    assert_eq!(
        replied(&Reply::Unsubscribe),
        expect(|reply| reply.unsubscribe = Some(schema::Empty {}))
    );
    assert_eq!(
        replied(&Reply::Publish),
        expect(|reply| reply.publish = Some(schema::Empty {}))
    );
    assert_eq!(
        replied(&Reply::Presence(&[])),
        expect(|reply| reply.presence = Some(schema::Presence::default()))
    );
    let nobody = Reply::PresenceStats {
        clients: 0,
        users: 0,
    };
    assert_eq!(
        replied(&nobody),
        expect(|reply| reply.presence_stats = Some(schema::PresenceStats::default()))
    );
    assert_eq!(
        replied(&Reply::Rpc(Data::default())),
        expect(|reply| reply.rpc = Some(schema::OfData::default()))
    );
    assert_eq!(
        replied(&Reply::SubRefresh { ttl_s: 0 }),
        expect(|reply| reply.sub_refresh = Some(schema::SubRefresh::default()))
    );
}

#[test]
fn the_other_pushes_are_read_back() {
    let info = Some(info_read());
    let join = pushed("c", &Push::Join(&INFO)).join;
    assert_eq!(join, Some(schema::OfInfo { info: info.clone() }));
    let leave = pushed("c", &Push::Leave(&INFO)).leave;
    assert_eq!(leave, Some(schema::OfInfo { info }));
    let message = pushed("", &Push::Message(data(&[1])));
    assert_eq!(message.channel, "");
    assert_eq!(message.message, Some(schema::OfData { data: vec![1] }));
}

#[test]
fn a_publication_is_written_without_allocations() {
    let mut tags = Vec::new();
    push_tag(&mut tags, "lang", "en");
    let publication = Publication {
        offset: 1,
        data: data(&[7; 1000]),
        info: Some(INFO),
        tags: Tags::from_flat(&tags),
        delta: false,
    };
    let mut out = Vec::with_capacity(4096);
    let allocations = allocation_counter::measure(|| {
        push(&mut out, "room", &Push::Publication(&publication));
    });
    assert_eq!(allocations.count_total, 0);
}

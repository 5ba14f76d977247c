//! Commands in Protobuf: worked documents, bounds and what is refused.

use super::*;
use crate::wire::client::{Commands, Encoding};

type Read = Result<Command<'static>, BadCommand>;

fn all(message: &[u8]) -> Vec<Result<Command<'_>, BadCommand>> {
    Commands::new(Encoding::Protobuf, message).collect()
}

/// Bytes of a hex dump in which blanks do not count.
fn hex(dump: &str) -> Vec<u8> {
    let digits: Vec<u8> = dump.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("a digit") as u8;
    digits
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

fn framed(command: &schema::Command) -> Vec<u8> {
    command.encode_length_delimited_to_vec()
}

fn ok(id: u32, request: Request<'static>) -> Read {
    Ok(Command { id, request })
}

fn subscribe(channel: &'static str) -> SubscribeRequest<'static> {
    SubscribeRequest {
        channel: channel.into(),
        ..SubscribeRequest::default()
    }
}

#[test]
fn commands_are_read_from_the_protocols_worked_frames() {
    let connect = Request::Connect(ConnectRequest {
        token: Some("tok".into()),
        name: Some("js".into()),
        ..ConnectRequest::default()
    });
    let subscribe = Request::Subscribe(SubscribeRequest {
        flag: 1,
        ..subscribe("news")
    });
    assert_eq!(
        all(&hex(
            "0d 0801 2209 0a03746f6b 22026a73 0c 0802 2a08 0a046e657773 7001"
        )),
        [ok(1, connect), ok(2, subscribe)]
    );
    let rpc = Request::Rpc {
        method: "m".into(),
        data: b"{}".into(),
    };
    assert_eq!(all(&hex("0b 0803 6a07 0a027b7d 12016d")), [ok(3, rpc)]);
    let presence = Request::Presence {
        channel: "news".into(),
    };
    assert_eq!(all(&hex("0a 0804 4206 0a046e657773")), [ok(4, presence)]);
    assert_eq!(all(&[0]), [ok(0, Request::Pong)]);
}

#[test]
fn every_field_of_connect_and_subscribe_is_read() {
    let fields = schema::Subscribe {
        channel: "c".into(),
        token: "t".into(),
        recover: true,
        epoch: "e".into(),
        offset: u64::MAX,
        data: vec![0xff, 0],
        positioned: true,
        recoverable: true,
        join_leave: true,
        delta: "fossil".into(),
        filter: hex("12016b 1a026578"),
        flag: 3,
        kind: -1,
    };
    let expected_recover = recover(true, u64::MAX, "e".into());
    let message = framed(&schema::Command {
        id: 1,
        subscribe: Some(fields.clone()),
        ..schema::Command::default()
    });
    let expected = SubscribeRequest {
        channel: "c".into(),
        token: Some("t".into()),
        recover: expected_recover.clone(),
        data: vec![0xff, 0].into(),
        positioned: true,
        recoverable: true,
        join_leave: true,
        delta_fossil: true,
        filter: filter::filter(&hex("12016b 1a026578")),
        flag: 3,
        kind: -1,
    };
    assert_eq!(all(&message), [ok(1, Request::Subscribe(expected))]);

    let sub = |channel: &str, request| {
        let channel = channel.into();
        schema::Sub { channel, request }.encode_to_vec()
    };
    let message = framed(&schema::Command {
        id: 1,
        connect: Some(schema::Connect {
            token: "t".into(),
            data: vec![1],
            subs: vec![sub("b", None), sub("a", Some(fields)), sub("b", None)],
            name: "n".into(),
            version: "v".into(),
        }),
        ..schema::Command::default()
    });
    let expected = ConnectRequest {
        token: Some("t".into()),
        data: vec![1].into(),
        subs: vec![
            ("b".into(), Recover::default()),
            ("a".into(), expected_recover),
        ],
        name: Some("n".into()),
        version: Some("v".into()),
    };
    assert_eq!(all(&message), [ok(1, Request::Connect(expected))]);
}

#[test]
fn every_field_of_the_other_requests_is_read() {
    let with = |fill: fn(&mut schema::Command)| {
        let mut command = schema::Command {
            id: 9,
            ..schema::Command::default()
        };
        fill(&mut command);
        framed(&command)
    };
    let channel = || Cow::Borrowed("c");
    let cases = [
        (
            with(|c| {
                c.unsubscribe = Some(schema::OfChannel {
                    channel: "c".into(),
                })
            }),
            Request::Unsubscribe { channel: channel() },
        ),
        (
            with(|c| {
                c.publish = Some(schema::Publish {
                    channel: "c".into(),
                    data: vec![0],
                });
            }),
            Request::Publish {
                channel: channel(),
                data: vec![0].into(),
            },
        ),
        (
            with(|c| {
                c.presence_stats = Some(schema::OfChannel {
                    channel: "c".into(),
                })
            }),
            Request::PresenceStats { channel: channel() },
        ),
        (
            with(|c| {
                c.history = Some(schema::History {
                    channel: "c".into(),
                    limit: -1,
                    since: Some(schema::StreamPosition {
                        offset: 7,
                        epoch: "e".into(),
                    }),
                    reverse: true,
                });
            }),
            Request::History {
                channel: channel(),
                limit: -1,
                since: Some(StreamPosition {
                    offset: 7,
                    epoch: "e".into(),
                }),
                reverse: true,
            },
        ),
        (with(|c| c.ping = Some(schema::Empty {})), Request::Ping),
        (
            with(|c| c.send = Some(schema::OfData { data: vec![2] })),
            Request::Send {
                data: vec![2].into(),
            },
        ),
        (
            with(|c| c.refresh = Some(schema::Refresh { token: "t".into() })),
            Request::Refresh { token: "t".into() },
        ),
        (
            with(|c| {
                c.sub_refresh = Some(schema::SubRefresh {
                    channel: "c".into(),
                    token: "t".into(),
                });
            }),
            Request::SubRefresh {
                channel: channel(),
                token: "t".into(),
            },
        ),
    ];
    for (message, request) in cases {
        assert_eq!(all(&message), [ok(9, request)]);
    }
}

#[test]
fn without_id_and_send_a_command_is_a_pong_whatever_it_carries() {
    let send = Some(schema::OfData { data: vec![1] });
    let rpc = Some(schema::Rpc::default());
    let carries = schema::Command {
        rpc: rpc.clone(),
        ..schema::Command::default()
    };
    assert_eq!(all(&framed(&carries)), [ok(0, Request::Pong)]);
    let sends = schema::Command {
        rpc,
        send,
        ..schema::Command::default()
    };
    let data = vec![1].into();
    assert_eq!(all(&framed(&sends)), [ok(0, Request::Send { data })]);
}

#[test]
fn an_empty_request_is_one_and_a_channel_must_be_named() {
    // Id 1 and one empty request field each.
    let request = |field: u8| {
        let message = [4, 8, 1, field << 3 | 2, 0];
        Commands::new(Encoding::Protobuf, &message)
            .next()
            .map(|command| command.map(|command| format!("{:?}", command.request)))
    };
    for of_channel in [5, 6, 7, 8, 9, 10, 15] {
        assert_eq!(request(of_channel), Some(Err(BadCommand::NoChannel)));
    }
    let connect = Request::Connect(ConnectRequest::default());
    assert_eq!(request(4), Some(Ok(format!("{connect:?}"))));
    assert_eq!(request(11), Some(Ok("Ping".to_owned())));
    assert_eq!(all(&[2, 8, 1]), [Err(BadCommand::NoRequest)]);
    let nameless = schema::Connect {
        subs: vec![vec![]],
        ..schema::Connect::default()
    };
    let message = framed(&schema::Command {
        id: 1,
        connect: Some(nameless),
        ..schema::Command::default()
    });
    assert_eq!(all(&message), [Err(BadCommand::NoChannel)]);
}

#[test]
fn unknown_fields_are_skipped() {
    // Field 3 as a number, field 100 as bytes, then an rpc with an unknown field of its own.
    assert_eq!(
        all(&hex("0e 0801 1805 a2060161 6a04 1a026162 ")),
        [ok(
            1,
            Request::Rpc {
                method: "".into(),
                data: (&[]).into(),
            }
        )]
    );
}

#[test]
fn what_is_no_command_is_refused() {
    let group_start = [0x1b; 90];
    let mut deep = vec![90];
    deep.extend_from_slice(&group_start);
    let cases: [&[u8]; 9] = [
        // A length beyond the message, one that never ends, one beyond any message.
        &[2, 8],
        &[0x80; 11],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        // A string beyond its message, and far beyond it.
        &[6, 8, 1, 0x22, 2, 0x0a, 9],
        &[10, 8, 1, 0x22, 6, 0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        // A channel that is not UTF-8.
        &[7, 8, 1, 0x2a, 3, 0x0a, 1, 0xff],
        // An id that is a string; field number 0.
        &[2, 0x0a, 0],
        &[2, 0, 0],
        &deep,
    ];
    for message in cases {
        assert_eq!(all(message), [Err(BadCommand::NotProtobuf)], "{message:x?}");
    }
}

#[test]
fn positions_of_server_side_subscriptions_are_bounded() {
    let message = |subs: usize| {
        let sub = |sub: usize| schema::Sub {
            channel: format!("c{sub}"),
            request: None,
        };
        framed(&schema::Command {
            id: 1,
            connect: Some(schema::Connect {
                subs: (0..subs).map(|index| sub(index).encode_to_vec()).collect(),
                ..schema::Connect::default()
            }),
            ..schema::Command::default()
        })
    };
    assert!(all(&message(SUBSCRIPTIONS_PER_CONN_MAX))[0].is_ok());
    let over = message(SUBSCRIPTIONS_PER_CONN_MAX + 1);
    assert_eq!(all(&over), [Err(BadCommand::TooMany)]);
}

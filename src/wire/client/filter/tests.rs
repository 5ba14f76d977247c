//! Filters by tags: read in both encodings, what each comparison takes, and bounds.

mod properties;

use super::*;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::wire::client::flat::push_tag;
use crate::wire::client::{BadCommand, Commands, Encoding, Request};
use prost::Message;
use serde::Serialize;

type Read = Result<Option<Box<Filter>>, BadFilter>;

/// A node as SDKs write it, valid or not.
#[derive(Clone, PartialEq, Message, Serialize)]
struct Written {
    #[prost(string, tag = "1")]
    op: String,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(string, tag = "3")]
    cmp: String,
    #[prost(string, tag = "4")]
    val: String,
    #[prost(string, repeated, tag = "5")]
    vals: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    nodes: Vec<Written>,
}

fn leaf(key: &str, cmp: &str, val: &str, vals: &[&str]) -> Written {
    Written {
        key: key.into(),
        cmp: cmp.into(),
        val: val.into(),
        vals: vals.iter().map(|value| (*value).to_owned()).collect(),
        ..Written::default()
    }
}

fn branch(op: &str, nodes: &[Written]) -> Written {
    Written {
        op: op.into(),
        nodes: nodes.to_vec(),
        ..Written::default()
    }
}

/// What is read from the first command of a message, which is a subscribe.
fn from_message(encoding: Encoding, message: &[u8]) -> Result<Read, BadCommand> {
    let command = Commands::new(encoding, message).next().expect("a command");
    match command?.request {
        Request::Subscribe(subscribe) => Ok(subscribe.filter),
        other => panic!("a subscribe, not {other:?}"),
    }
}

fn from_json(tf: &str) -> Read {
    let message = format!(r#"{{"id":1,"subscribe":{{"channel":"c","tf":{tf}}}}}"#);
    from_message(Encoding::Json, message.as_bytes()).expect("a command")
}

/// A subscribe command of the protocol with these bytes as its filter.
fn in_protobuf(tf: &[u8]) -> Vec<u8> {
    #[derive(Message)]
    struct Subscribe {
        #[prost(string, tag = "1")]
        channel: String,
        #[prost(bytes = "vec", optional, tag = "13")]
        tf: Option<Vec<u8>>,
    }
    #[derive(Message)]
    struct Command {
        #[prost(uint32, tag = "1")]
        id: u32,
        #[prost(message, optional, tag = "5")]
        subscribe: Option<Subscribe>,
    }
    let subscribe = Subscribe {
        channel: "c".into(),
        tf: Some(tf.to_vec()),
    };
    let command = Command {
        id: 1,
        subscribe: Some(subscribe),
    };
    command.encode_length_delimited_to_vec()
}

fn from_protobuf(tf: &[u8]) -> Read {
    from_message(Encoding::Protobuf, &in_protobuf(tf)).expect("a command")
}

/// Reads it in both encodings, which agree.
fn read(written: &Written) -> Read {
    let json = from_json(&serde_json::to_string(written).expect("JSON"));
    let protobuf = from_protobuf(&written.encode_to_vec());
    assert_eq!(json, protobuf, "{written:?}");
    json
}

fn valid(written: &Written) -> Filter {
    let filter = read(written).unwrap_or_else(|bad| panic!("{bad}: {written:?}"));
    *filter.unwrap_or_else(|| panic!("a filter: {written:?}"))
}

fn flat(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut tags = Vec::new();
    for (key, value) in pairs {
        push_tag(&mut tags, key, value);
    }
    tags
}

fn matches(written: &Written, pairs: &[(&str, &str)]) -> bool {
    valid(written).matches(Tags::from_flat(&flat(pairs)))
}

#[test]
fn each_comparison_takes_what_it_says_and_knows_a_missing_tag() {
    // The comparison, its operands, values that match, values that do not, and a missing tag.
    type Case<'a> = (
        &'a str,
        &'a str,
        &'a [&'a str],
        &'a [&'a str],
        &'a [&'a str],
        bool,
    );
    let cases: [Case<'_>; 15] = [
        ("eq", "b", &[], &["b"], &["", "B", "bb", "a"], false),
        ("neq", "b", &[], &["", "B", "bb"], &["b"], true),
        ("in", "", &["b", "a"], &["a", "b"], &["", "c", "ab"], false),
        ("nin", "", &["b", "a"], &["", "c", "ab"], &["a", "b"], true),
        ("in", "", &["a", ""], &["", "a"], &["b"], true),
        ("nin", "", &["a", ""], &["b"], &["", "a"], false),
        ("ex", "", &[], &["", "x"], &[], false),
        ("nex", "", &[], &[], &["", "x"], true),
        (
            "sw",
            "ab",
            &[],
            &["ab", "abc"],
            &["", "a", "cab", "AB"],
            false,
        ),
        ("ew", "ab", &[], &["ab", "cab"], &["", "b", "abc"], false),
        ("ct", "ab", &[], &["ab", "cabc"], &["", "acb"], false),
        (
            "lt",
            "10",
            &[],
            &["9", "-11"],
            &["10", "11", "", "x"],
            false,
        ),
        (
            "lte",
            "10",
            &[],
            &["9", "10", "10.0"],
            &["10.01", "x"],
            false,
        ),
        ("gt", "10", &[], &["11", "10.01"], &["9", "10", "x"], false),
        ("gte", "10", &[], &["10", "100"], &["9.99", "x"], false),
    ];
    for (cmp, val, vals, matching, others, missing) in cases {
        let written = leaf("k", cmp, val, vals);
        for (values, expected) in [(matching, true), (others, false)] {
            for value in values {
                let found = matches(&written, &[("j", "z"), ("k", value)]);
                assert_eq!(found, expected, "{value:?} {cmp} {val:?} {vals:?}");
            }
        }
        for pairs in [&[][..], &[("K", "b")], &[("", "b"), ("kk", "9")]] {
            assert_eq!(matches(&written, pairs), missing, "{cmp} of {pairs:?}");
        }
    }
}

#[test]
fn branches_combine_their_nodes() {
    let (a, b) = (leaf("a", "ex", "", &[]), leaf("b", "ex", "", &[]));
    let both = [a.clone(), b.clone()];
    for (pairs, and, or) in [
        (&[][..], false, false),
        (&[("a", "")], false, true),
        (&[("b", "")], false, true),
        (&[("b", ""), ("a", "")], true, true),
    ] {
        assert_eq!(matches(&branch("and", &both), pairs), and, "{pairs:?}");
        assert_eq!(matches(&branch("or", &both), pairs), or, "{pairs:?}");
        let neither = branch("not", &[branch("or", &both)]);
        assert_eq!(matches(&neither, pairs), !or, "{pairs:?}");
    }
    let not_less = branch("not", &[leaf("n", "lt", "5", &[])]);
    assert!(
        matches(&not_less, &[("n", "x")]),
        "a leaf that fails is negated"
    );
    assert!(matches(&branch("and", &[a]), &[("a", "")]), "one is enough");
    // What belongs to leaves does not matter in a branch.
    let odd = Written {
        key: "k".into(),
        cmp: "dance".into(),
        val: "v".into(),
        ..branch("or", &[b])
    };
    assert!(matches(&odd, &[("b", "1")]));
}

#[test]
fn numbers_are_compared_as_decimals_of_any_length() {
    let nines = "9".repeat(FILTER_NUMBER_MAX);
    let one_more_digit = format!("1{}", "0".repeat(FILTER_NUMBER_MAX - 1));
    let padded = format!("{}10", "0".repeat(FILTER_NUMBER_MAX - 2));
    let ordered: [(&str, &str); 16] = [
        ("9", "10"),
        ("-10", "-9"),
        ("-1", "0"),
        ("-0.1", "0.1"),
        ("0.09", "0.1"),
        ("0.1", "0.11"),
        ("1.9", "1.91"),
        ("-1.91", "-1.9"),
        ("2.10", "2.9"),
        ("+1", "2"),
        ("9007199254740992", "9007199254740993"),
        ("0.1", "0.1000000000000000001"),
        ("-0.0000000000000000001", "0"),
        (
            "170141183460469231731687303715884105727.1",
            "170141183460469231731687303715884105727.2",
        ),
        (
            "999999999999999999999999999999999999999999",
            &one_more_digit,
        ),
        (&one_more_digit, &nines),
    ];
    for (less, more) in ordered {
        let relations = |value, val| {
            ["lt", "lte", "gt", "gte"]
                .map(|cmp| matches(&leaf("n", cmp, val, &[]), &[("n", value)]))
        };
        assert_eq!(
            relations(less, more),
            [true, true, false, false],
            "{less} < {more}"
        );
        assert_eq!(
            relations(more, less),
            [false, false, true, true],
            "{more} > {less}"
        );
    }
    for (one, other) in [
        ("0.10", "0.1"),
        ("-0", "0"),
        ("-0.00", "+0"),
        ("007", "7"),
        ("+7", "7.000"),
        ("-7.50", "-7.5"),
        (&padded, "10"),
        (&nines, &nines),
    ] {
        for (value, val) in [(one, other), (other, one)] {
            let found = ["lt", "lte", "gt", "gte"]
                .map(|cmp| matches(&leaf("n", cmp, val, &[]), &[("n", value)]));
            assert_eq!(found, [false, true, false, true], "{value} = {val}");
        }
    }
}

#[test]
fn what_is_no_number_is_in_no_relation_and_no_operand() {
    let too_long = "1".repeat(FILTER_NUMBER_MAX + 1);
    let too_fine = format!("0.{}", "0".repeat(FILTER_FRACTION_MAX + 1));
    for text in [
        "x", " 1", "1 ", "1e3", "1E3", "0x1", "1_0", "1,0", "+", "-", ".", ".5", "-.5", "5.",
        "1.2.3", "--1", "+-1", "1-", "inf", "NaN", "\u{661}", "1\u{0}", &too_long, &too_fine,
    ] {
        for cmp in ["lt", "lte", "gt", "gte"] {
            assert!(
                !matches(&leaf("n", cmp, "0", &[]), &[("n", text)]),
                "{text:?} {cmp} 0"
            );
            assert_eq!(
                read(&leaf("n", cmp, text, &[])),
                Err(BadFilter::NotANumber),
                "{text:?}"
            );
        }
    }
    assert!(!matches(&leaf("n", "lte", "0", &[]), &[("n", "")]));
}

#[test]
fn of_a_tag_that_comes_twice_the_last_value_counts() {
    let written = leaf("k", "eq", "b", &[]);
    assert!(matches(&written, &[("k", "a"), ("k", "b")]));
    assert!(!matches(&written, &[("k", "b"), ("k", "a")]));
}

#[test]
fn filters_that_are_equal_need_not_be_written_alike() {
    let same = [
        (
            leaf("k", "in", "", &["b", "a", "b"]),
            leaf("k", "in", "", &["a", "b"]),
        ),
        (leaf("k", "lt", "-07.50", &[]), leaf("k", "lt", "-7.5", &[])),
        (leaf("k", "gt", "-0", &[]), leaf("k", "gt", "+0.0", &[])),
    ];
    for (one, other) in same {
        assert_eq!(valid(&one), valid(&other));
    }
    assert_ne!(
        valid(&leaf("k", "eq", "1", &[])),
        valid(&leaf("k", "eq", "1.0", &[]))
    );
    assert_ne!(
        valid(&leaf("k", "ex", "", &[])),
        valid(&leaf("k", "nex", "", &[]))
    );
}

#[test]
fn a_filter_with_nothing_in_it_is_none() {
    for tf in [
        "null",
        "{}",
        " { } ",
        r#"{"op":""}"#,
        r#"{"op":null,"key":null,"cmp":null,"val":null,"vals":null,"nodes":null}"#,
        r#"{"op":"","key":"","cmp":"","val":"","vals":[],"nodes":[],"later":{"a":[1]}}"#,
    ] {
        assert_eq!(from_json(tf), Ok(None), "{tf}");
    }
    assert_eq!(from_protobuf(&[]), Ok(None));
    // An empty op, and a field of a later version.
    assert_eq!(from_protobuf(&[0x0a, 0, 0x38, 1]), Ok(None));
    assert_eq!(read(&Written::default()), Ok(None));
    let absent = br#"{"id":1,"subscribe":{"channel":"c"}}"#;
    assert_eq!(from_message(Encoding::Json, absent), Ok(Ok(None)));
    let absent = [7, 8, 1, 0x2a, 3, 0x0a, 1, b'c'];
    assert_eq!(from_message(Encoding::Protobuf, &absent), Ok(Ok(None)));
}

#[test]
fn unknown_fields_are_skipped_and_of_a_repeated_one_the_last_counts() {
    let expected = Ok(Some(Box::new(valid(&leaf("k", "eq", "v", &[])))));
    for tf in [
        r#"{"key":"k","cmp":"eq","val":"v"}"#,
        r#"{"a":[[{}]],"val":"v","cmp":"eq","key":"k","b":null}"#,
        r#"{"key":"x","key":"k","cmp":"dance","cmp":"eq","vals":["x"],"vals":[],"val":"\u0076"}"#,
    ] {
        assert_eq!(from_json(tf), expected, "{tf}");
    }
    let mut message = leaf("x", "dance", "v", &[]).encode_to_vec();
    // Field 7 as a number, field 100 as bytes.
    message.extend_from_slice(&[0x38, 5, 0xa2, 6, 1, b'a']);
    message.extend(leaf("k", "eq", "", &[]).encode_to_vec());
    assert_eq!(from_protobuf(&message), expected);
}

#[test]
fn a_filter_that_is_not_valid_is_refused_with_its_reason() {
    use BadFilter::{Comparison, NotANumber, Operands, Operation};
    let ok = || leaf("k", "ex", "", &[]);
    let with_node = |written: Written| Written {
        nodes: vec![ok()],
        ..written
    };
    let cases = [
        (branch("xor", &[ok()]), Operation),
        (branch("AND", &[ok()]), Operation),
        (branch("and", &[]), Operands),
        (branch("or", &[]), Operands),
        (branch("not", &[]), Operands),
        (branch("not", &[ok(), ok()]), Operands),
        (leaf("k", "", "v", &[]), Comparison),
        (leaf("k", "", "", &[]), Comparison),
        (leaf("k", "is", "v", &[]), Comparison),
        (leaf("k", "EQ", "v", &[]), Comparison),
        (leaf("", "eq", "v", &[]), Operands),
        (leaf("", "in", "", &["v"]), Operands),
        (leaf("", "gt", "1", &[]), Operands),
        (leaf("k", "eq", "", &[]), Operands),
        (leaf("k", "neq", "", &["v"]), Operands),
        (leaf("k", "sw", "v", &["v"]), Operands),
        (leaf("k", "lt", "", &[]), Operands),
        (leaf("k", "lt", "", &["1"]), Operands),
        (leaf("k", "in", "", &[]), Operands),
        (leaf("k", "nin", "v", &[]), Operands),
        (leaf("k", "in", "v", &["v"]), Operands),
        (leaf("k", "ex", "v", &[]), Operands),
        (leaf("k", "nex", "", &["v"]), Operands),
        (with_node(leaf("k", "eq", "v", &[])), Operands),
        (with_node(Written::default()), Operands),
        (leaf("k", "gte", "ten", &[]), NotANumber),
        (branch("and", &[Written::default()]), Comparison),
        (
            branch("or", &[ok(), branch("not", &[leaf("", "eq", "", &[])])]),
            Operands,
        ),
    ];
    for (written, bad) in cases {
        assert_eq!(read(&written), Err(bad), "{written:?}");
    }
    // A tag without a name is a tag.
    for (cmp, expected) in [("ex", true), ("nex", false)] {
        assert_eq!(matches(&leaf("", cmp, "", &[]), &[("", "x")]), expected);
        assert_eq!(matches(&leaf("", cmp, "", &[]), &[("a", "x")]), !expected);
    }
}

#[test]
fn a_bad_filter_spoils_its_command_only() {
    let next = r#"{"id":2,"presence":{"channel":"c"}}"#;
    for tf in [
        "7",
        "true",
        "\"eq\"",
        "[]",
        r#"["and","k"]"#,
        r#"{"op":7}"#,
        r#"{"key":"k","cmp":"gt","val":10}"#,
        r#"{"key":"k","cmp":"in","vals":"v"}"#,
        r#"{"key":"k","cmp":"in","vals":["v",1]}"#,
        r#"{"op":"not","nodes":{}}"#,
        r#"{"op":"not","nodes":["k"]}"#,
        r#"{"op":"not","nodes":[[]]}"#,
        r#"{"key":"\ud800","cmp":"ex"}"#,
    ] {
        assert_eq!(from_json(tf), Err(BadFilter::Malformed), "{tf}");
        let message =
            format!("{{\"id\":1,\"subscribe\":{{\"channel\":\"c\",\"tf\":{tf}}}}}\n{next}");
        let commands = Commands::new(Encoding::Json, message.as_bytes());
        assert_eq!(commands.filter(Result::is_ok).count(), 2, "{tf}");
    }
    let cases: [&[u8]; 8] = [
        // A text that is a number, nodes that are one, a text that is not UTF-8.
        &[0x08, 1],
        &[0x30, 1],
        &[0x12, 1, 0xff],
        // A text beyond its message, a length beyond any, a field without a value.
        &[0x12, 2, b'k'],
        &[
            0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
        ],
        &[0x12],
        // Field 0, and a group of a later version that does not end.
        &[0x02, 0],
        &[0x3b],
    ];
    for tf in cases {
        assert_eq!(from_protobuf(tf), Err(BadFilter::Malformed), "{tf:x?}");
        let mut message = in_protobuf(tf);
        message.extend_from_slice(&[7, 8, 2, 0x42, 3, 0x0a, 1, b'c']);
        let commands = Commands::new(Encoding::Protobuf, &message);
        assert_eq!(commands.filter(Result::is_ok).count(), 2, "{tf:x?}");
    }
    assert_eq!(
        from_json(r#"{"op":"or","nodes":[{"key":"k","cmp":"ex"},null]}"#),
        Err(BadFilter::Comparison),
        "null is an empty node"
    );
}

#[test]
fn nodes_depth_and_bytes_are_bounded() {
    let ok = leaf("k", "ex", "", &[]);
    let wide = |nodes: usize| branch("or", &vec![ok.clone(); nodes - 1]);
    let deep = |depth: usize| (1..depth).fold(ok.clone(), |inner, _| branch("not", &[inner]));
    let long = |bytes: usize| {
        let value = "v".repeat(bytes - 2 * FILTER_TEXT_OVERHEAD - 1);
        leaf("k", "eq", &value, &[])
    };
    let many = |values: usize| leaf("k", "in", "", &vec![""; values]);
    let texts = FILTER_BYTES_MAX / FILTER_TEXT_OVERHEAD;
    for at_the_bound in [
        wide(FILTER_NODES_MAX),
        deep(FILTER_DEPTH_MAX),
        long(FILTER_BYTES_MAX),
        // The key is one of the texts and has a byte.
        many(texts - 2),
    ] {
        valid(&at_the_bound);
    }
    for beyond in [
        wide(FILTER_NODES_MAX + 1),
        deep(FILTER_DEPTH_MAX + 1),
        long(FILTER_BYTES_MAX + 1),
        many(texts - 1),
        many(10 * texts),
    ] {
        assert_eq!(read(&beyond), Err(BadFilter::TooLarge));
    }
}

#[test]
fn depth_bombs_are_refused_without_the_stack() {
    for (open, close) in [(r#"{"nodes":["#, "]}"), (r#"{"a":[{"nodes":["#, "]}]}")] {
        let levels = MESSAGE_BYTES_MAX / (open.len() + close.len() + 1);
        let bomb = format!("{}{}", open.repeat(levels), close.repeat(levels));
        // In a field of no meaning there is nothing to read.
        let expected = if open.contains("\"a\"") {
            Ok(None)
        } else {
            Err(BadFilter::TooLarge)
        };
        assert_eq!(from_json(&bomb), expected);
    }
    let lists = format!(r#"{{"vals":{}{}}}"#, "[".repeat(30_000), "]".repeat(30_000));
    assert_eq!(from_json(&lists), Err(BadFilter::Malformed));
    let mut bomb = Vec::new();
    while bomb.len() < MESSAGE_BYTES_MAX {
        let mut outer = vec![0x32];
        prost::encode_length_delimiter(bomb.len(), &mut outer).expect("room");
        outer.append(&mut bomb);
        bomb = outer;
    }
    assert_eq!(from_protobuf(&bomb), Err(BadFilter::TooLarge));
    assert_eq!(from_protobuf(&vec![0x3b; 1_000]), Err(BadFilter::Malformed));
}

#[test]
fn matching_allocates_nothing() {
    let written = branch(
        "and",
        &[
            leaf("lang", "in", "", &["en", "de"]),
            branch("not", &[leaf("lang", "eq", "fr", &[])]),
            leaf("price", "gte", "-99.90", &[]),
            branch(
                "or",
                &[leaf("name", "ct", "x", &[]), leaf("name", "ew", "e", &[])],
            ),
        ],
    );
    let filter = valid(&written);
    let digits = "1".repeat(150);
    let tags = flat(&[("lang", "en"), ("price", &digits), ("name", "some")]);
    let allocations = allocation_counter::measure(|| {
        assert!(filter.matches(Tags::from_flat(&tags)));
        assert!(!filter.matches(Tags::default()));
    });
    assert_eq!(allocations.count_total, 0);
}

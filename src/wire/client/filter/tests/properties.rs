//! Filters by tags against a model of them, in both encodings.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// What a filter is and what it matches, said once more and as plainly as possible.
mod model {
    use super::super::Written;
    use std::collections::BTreeMap;

    pub(super) type Pairs = BTreeMap<String, String>;

    pub(super) fn is_valid(node: &Written) -> bool {
        let no_val = node.val.is_empty();
        let no_vals = node.vals.is_empty();
        let nodes = node.nodes.len();
        let nodes_are_valid = node.nodes.iter().all(is_valid);
        match node.op.as_str() {
            "" if nodes > 0 => false,
            "" => match node.cmp.as_str() {
                "ex" | "nex" => no_val && no_vals,
                "in" | "nin" => !node.key.is_empty() && no_val && !no_vals,
                "eq" | "neq" | "sw" | "ew" | "ct" => !node.key.is_empty() && !no_val && no_vals,
                "lt" | "lte" | "gt" | "gte" => {
                    !node.key.is_empty() && number(&node.val).is_some() && no_vals
                }
                _ => false,
            },
            "and" | "or" => nodes > 0 && nodes_are_valid,
            "not" => nodes == 1 && nodes_are_valid,
            _ => false,
        }
    }

    pub(super) fn matches(node: &Written, tags: &Pairs) -> bool {
        let mut nodes = node.nodes.iter();
        match node.op.as_str() {
            "and" => return nodes.all(|node| matches(node, tags)),
            "or" => return nodes.any(|node| matches(node, tags)),
            "not" => return nodes.all(|node| !matches(node, tags)),
            _ => {}
        }
        let tag = tags.get(&node.key);
        let empty = String::new();
        let value = tag.unwrap_or(&empty);
        let numbers = (number(value), number(&node.val));
        let compare = |holds: fn(&i128, &i128) -> bool| match (tag, numbers) {
            (Some(_), (Some(value), Some(val))) => holds(&value, &val),
            _ => false,
        };
        match node.cmp.as_str() {
            "eq" => tag == Some(&node.val),
            "neq" => tag != Some(&node.val),
            "in" => node.vals.contains(value),
            "nin" => !node.vals.contains(value),
            "ex" => tag.is_some(),
            "nex" => tag.is_none(),
            "sw" => value.starts_with(&node.val),
            "ew" => value.ends_with(&node.val),
            "ct" => value.contains(&node.val),
            "lt" => compare(i128::lt),
            "lte" => compare(i128::le),
            "gt" => compare(i128::gt),
            "gte" => compare(i128::ge),
            other => panic!("a comparison, not {other}"),
        }
    }

    /// In units of the 19th digit behind the point, when it is a short number.
    fn number(text: &str) -> Option<i128> {
        let (sign, digits) = match text.as_bytes() {
            [b'-', digits @ ..] => (-1, digits),
            [b'+', digits @ ..] => (1, digits),
            digits => (1, digits),
        };
        let point = digits.iter().position(|byte| *byte == b'.');
        let whole = point.unwrap_or(digits.len());
        let fraction = point.map(|point| digits.len() - point - 1);
        if whole == 0 || fraction == Some(0) {
            return None;
        }
        let mut number = 0;
        for (index, byte) in digits.iter().enumerate() {
            if Some(index) != point {
                number = number * 10 + i128::from(char::from(*byte).to_digit(10)?);
            }
        }
        Some(sign * number * 10_i128.pow(19 - fraction.unwrap_or(0) as u32))
    }
}

fn any_key() -> impl Strategy<Value = String> {
    prop_oneof![8 => "[abc]", 1 => Just(String::new()), 1 => "\\PC{0,3}"]
}

/// Few texts and many numbers, so that some are equal.
fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[xy]{0,3}",
        4 => "[+-]?[0-2]{1,3}(\\.[0-2]{1,3})?",
        1 => "[-+.e0-9]{0,5}",
        1 => "\\PC{0,3}",
    ]
}

fn any_leaf() -> impl Strategy<Value = Written> {
    let cmp = prop_oneof![
        6 => prop::sample::select(vec!["eq", "neq", "sw", "ew", "ct"]),
        4 => prop::sample::select(vec!["lt", "lte", "gt", "gte"]),
        4 => prop::sample::select(vec!["in", "nin"]),
        2 => prop::sample::select(vec!["ex", "nex", "", "is"]),
    ];
    let odd = prop::bool::weighted(0.05);
    (any_key(), cmp, any_value(), vec(any_value(), 1..4), odd).prop_map(
        |(key, cmp, mut val, mut vals, odd)| {
            let takes_vals = matches!(cmp, "in" | "nin");
            let takes_none = matches!(cmp, "ex" | "nex");
            if !odd && (takes_vals || takes_none) {
                val.clear();
            }
            if !odd && !takes_vals {
                vals.clear();
            }
            let cmp = cmp.to_owned();
            Written {
                key,
                cmp,
                val,
                vals,
                ..Written::default()
            }
        },
    )
}

fn any_written() -> impl Strategy<Value = Written> {
    any_leaf().prop_recursive(4, 24, 4, |inner| {
        let op = prop_oneof![
            12 => prop::sample::select(vec!["and", "or"]),
            1 => prop::sample::select(vec!["", "xor", "not"]),
        ];
        let branches = (op, vec(inner.clone(), 0..4)).prop_map(|(op, nodes)| branch(op, &nodes));
        let negated = inner.prop_map(|node| branch("not", &[node]));
        prop_oneof![2 => branches, 1 => negated]
    })
}

proptest! {
    #[test]
    fn a_filter_is_what_the_model_says(
        written in any_written(),
        tags in vec(vec((any_key(), any_value()), 0..5), 1..8),
    ) {
        match read(&written) {
            Ok(None) => prop_assert_eq!(&written, &Written::default()),
            Ok(Some(filter)) => {
                prop_assert!(model::is_valid(&written), "{:?}", filter);
                for pairs in tags {
                    let mut bytes = Vec::new();
                    for (key, value) in &pairs {
                        push_tag(&mut bytes, key, value);
                    }
                    let found = filter.matches(Tags::from_flat(&bytes));
                    let tags: model::Pairs = pairs.into_iter().collect();
                    prop_assert_eq!(found, model::matches(&written, &tags), "{:?}", tags);
                }
            }
            Err(bad) => prop_assert!(!model::is_valid(&written), "{}", bad),
        }
    }

    #[test]
    fn numbers_are_in_the_relations_that_the_model_says(
        value in "[+-]?[0-9]{1,3}(\\.[0-9]{1,3})?",
        val in "[+-]?[0-9]{1,3}(\\.[0-9]{1,3})?",
    ) {
        let tags = model::Pairs::from([("n".to_owned(), value.clone())]);
        for cmp in ["lt", "lte", "gt", "gte"] {
            let written = leaf("n", cmp, &val, &[]);
            let expected = model::matches(&written, &tags);
            prop_assert_eq!(matches(&written, &[("n", &value)]), expected, "{}", cmp);
        }
    }

    #[test]
    fn any_bytes_as_a_filter_are_read_without_a_panic(
        bytes in vec(any::<u8>(), 0..64),
        text in "[\\[\\]{}\":,a-z0-9]{0,40}",
    ) {
        let _ = from_message(Encoding::Protobuf, &in_protobuf(&bytes));
        let message = format!(r#"{{"id":1,"subscribe":{{"channel":"c","tf":{text}}}}}"#);
        for command in Commands::new(Encoding::Json, message.as_bytes()) {
            let _ = command;
        }
    }
}

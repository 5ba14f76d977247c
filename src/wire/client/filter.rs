//! Filters by tags: which publications of a channel a subscription gets.
//!
//! A filter is a tree that comes with a subscribe command. Its branches are `and`, `or` and `not`; its
//! leaves compare the value of one tag:
//!
//! | `cmp` | matches when the tag | when there is no such tag |
//! |---|---|---|
//! | `eq`, `neq` | is `val`, is another | no, yes |
//! | `in`, `nin` | is one of `vals`, is none of them | as if it were there and empty |
//! | `ex`, `nex` | is there, is not | no, yes |
//! | `sw`, `ew`, `ct` | starts with, ends with, contains `val` | no |
//! | `lt`, `lte`, `gt`, `gte` | is a number in that relation to `val` | no |
//!
//! Texts are compared byte by byte. A number is an optional sign, digits, and possibly a point with more
//! digits: no exponent, no digits missing on either side of the point, at most [`FILTER_NUMBER_MAX`] bytes
//! and [`FILTER_FRACTION_MAX`] digits behind the point. Numbers are compared as decimals, never rounded:
//! `0.10` is `0.1` and `-0` is `0`. A tag that is no number is in no relation to one. When a publication
//! has a tag twice, its last value counts.
//!
//! A leaf has a key, which may be empty with `ex` and `nex` only, and exactly the operands of its
//! comparison, none of them an empty `val`. A `not` has one node, `and` and `or` have at least one;
//! what belongs to leaves is ignored in them. All of this is what Centrifugo does, but three things are
//! refused here that it takes: a leaf with nodes, a `val` that is no number where one is compared (it
//! would match nothing), and what is larger than [`FILTER_NODES_MAX`], [`FILTER_DEPTH_MAX`] and
//! [`FILTER_BYTES_MAX`] allow. An empty node is no filter where it is the whole, and refused elsewhere.

use super::Tags;
use crate::limits::{
    FILTER_BYTES_MAX, FILTER_DEPTH_MAX, FILTER_FRACTION_MAX, FILTER_NODES_MAX, FILTER_NUMBER_MAX,
    FILTER_TEXT_OVERHEAD,
};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

/// A valid filter. Equal filters match the same; values of `in` are equal in any order, numbers however
/// they were written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter(Node);

impl Filter {
    /// Whether a publication with these tags passes. Allocates nothing.
    pub fn matches(&self, tags: Tags<'_>) -> bool {
        self.0.matches(tags)
    }
}

/// Why a filter is none. The subscribe is refused with error 107 whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFilter {
    /// Not an object or message with fields of the right types.
    Malformed,
    /// An unknown `op`.
    Operation,
    /// An unknown `cmp`, or none in a leaf.
    Comparison,
    /// A key, value or node that is missing or one too many.
    Operands,
    /// A numeric comparison with what is no number.
    NotANumber,
    /// More nodes, depth or bytes than a filter may have.
    TooLarge,
}

impl fmt::Display for BadFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not a filter",
            Self::Operation => "unknown op in a filter",
            Self::Comparison => "unknown cmp in a filter",
            Self::Operands => "a filter's key, values or nodes are not those of its op and cmp",
            Self::NotANumber => "numeric comparison with what is no number in a filter",
            Self::TooLarge => "filter too large",
        })
    }
}

impl std::error::Error for BadFilter {}

/// A part of a filter: at most [`FILTER_DEPTH_MAX`] of them lie within each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Node {
    All(Box<[Node]>),
    Any(Box<[Node]>),
    Not(Box<Node>),
    Leaf {
        key: Box<str>,
        test: Test,
        /// It matches when the test fails: a missing tag is no exception.
        negated: bool,
    },
}

impl Node {
    fn matches(&self, tags: Tags<'_>) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.matches(tags)),
            Self::Any(nodes) => nodes.iter().any(|node| node.matches(tags)),
            Self::Not(node) => !node.matches(tags),
            Self::Leaf { key, test, negated } => {
                let of_key = tags.iter().filter(|(name, _)| **name == **key);
                test.passes(of_key.last().map(|(_, value)| value)) != *negated
            }
        }
    }
}

/// What a leaf asks of the value of its tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Test {
    Exists,
    Is(Box<str>),
    /// Ascending, each once.
    IsOneOf(Box<[Box<str>]>),
    StartsWith(Box<str>),
    EndsWith(Box<str>),
    Contains(Box<str>),
    Number(Relation, Number<'static>),
}

impl Test {
    /// Whether a value passes; `None` when there is no such tag.
    fn passes(&self, value: Option<&str>) -> bool {
        if let Self::IsOneOf(values) = self {
            let value = value.unwrap_or_default();
            return values
                .binary_search_by(|known| (**known).cmp(value))
                .is_ok();
        }
        let Some(value) = value else {
            return false;
        };
        match self {
            Self::Exists | Self::IsOneOf(_) => true,
            Self::Is(text) => *value == **text,
            Self::StartsWith(text) => value.starts_with(&**text),
            Self::EndsWith(text) => value.ends_with(&**text),
            Self::Contains(text) => value.contains(&**text),
            Self::Number(relation, number) => {
                Number::parse(value).is_some_and(|value| relation.holds(value.compare(number)))
            }
        }
    }
}

/// How a number has to be to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Relation {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Relation {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

/// A decimal number in its digits, of which there is one form: no zeros that do not count, no negative
/// zero.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Number<'a> {
    negative: bool,
    /// Before the point; without leading zeros, so the longer one is larger.
    whole: Cow<'a, str>,
    /// Behind it; without trailing zeros.
    fraction: Cow<'a, str>,
}

impl<'a> Number<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        if text.len() > FILTER_NUMBER_MAX {
            return None;
        }
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
        let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty()
            || fraction.is_empty()
            || fraction.len() > FILTER_FRACTION_MAX
            || !is_digits(whole)
            || !is_digits(fraction)
        {
            return None;
        }
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        let is_zero = whole.is_empty() && fraction.is_empty();
        Some(Self {
            negative: text.starts_with('-') && !is_zero,
            whole: whole.into(),
            fraction: fraction.into(),
        })
    }

    fn into_owned(self) -> Number<'static> {
        Number {
            negative: self.negative,
            whole: self.whole.into_owned().into(),
            fraction: self.fraction.into_owned().into(),
        }
    }

    fn compare(&self, other: &Number<'_>) -> Ordering {
        let by_size = || {
            let by_length = self.whole.len().cmp(&other.whole.len());
            by_length
                .then_with(|| self.whole.cmp(&other.whole))
                .then_with(|| self.fraction.cmp(&other.fraction))
        };
        match (self.negative, other.negative) {
            (false, false) => by_size(),
            (true, true) => by_size().reverse(),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

/// How much of a filter has been read: keeps both encodings within the bounds while they read.
#[derive(Default)]
pub(super) struct Reading {
    depth: usize,
    nodes: usize,
    bytes: usize,
}

impl Reading {
    /// A node begins, inside those that have not ended.
    pub(super) fn enter(&mut self) -> Result<(), BadFilter> {
        self.depth += 1;
        self.nodes += 1;
        within(self.depth <= FILTER_DEPTH_MAX && self.nodes <= FILTER_NODES_MAX)
    }

    /// One of the `vals` of a node.
    pub(super) fn value(&mut self, value: &str) -> Result<(), BadFilter> {
        self.bytes += value.len() + FILTER_TEXT_OVERHEAD;
        within(self.bytes <= FILTER_BYTES_MAX)
    }

    /// The node ends that began last. An empty key or value counts as absent.
    pub(super) fn leave(&mut self, draft: &Draft<'_>) -> Result<(), BadFilter> {
        self.depth -= 1;
        let texts = [&draft.key, &draft.val].into_iter();
        let mut present = texts.filter(|text| !text.is_empty());
        present.try_for_each(|text| self.value(text))
    }
}

fn within(bounds: bool) -> Result<(), BadFilter> {
    bounds.then_some(()).ok_or(BadFilter::TooLarge)
}

/// A node as it is written, its nodes checked already. Fields that are absent are empty.
#[derive(Default)]
pub(super) struct Draft<'a> {
    pub(super) op: Cow<'a, str>,
    pub(super) key: Cow<'a, str>,
    pub(super) cmp: Cow<'a, str>,
    pub(super) val: Cow<'a, str>,
    pub(super) vals: Vec<Box<str>>,
    pub(super) nodes: Vec<Node>,
}

impl Draft<'_> {
    /// The whole filter; `None` when there is nothing in it.
    pub(super) fn filter(self) -> Result<Option<Box<Filter>>, BadFilter> {
        let texts = [&self.op, &self.key, &self.cmp, &self.val];
        let is_empty = texts.iter().all(|text| text.is_empty());
        if is_empty && self.vals.is_empty() && self.nodes.is_empty() {
            return Ok(None);
        }
        self.node().map(|node| Some(Box::new(Filter(node))))
    }

    /// The node, when it is valid.
    pub(super) fn node(self) -> Result<Node, BadFilter> {
        let operands = |fit: bool| fit.then_some(()).ok_or(BadFilter::Operands);
        match &*self.op {
            "" => {
                operands(self.nodes.is_empty())?;
                self.leaf()
            }
            "and" => {
                operands(!self.nodes.is_empty())?;
                Ok(Node::All(self.nodes.into()))
            }
            "or" => {
                operands(!self.nodes.is_empty())?;
                Ok(Node::Any(self.nodes.into()))
            }
            "not" => {
                let [node] = <[Node; 1]>::try_from(self.nodes).map_err(|_| BadFilter::Operands)?;
                Ok(Node::Not(Box::new(node)))
            }
            _ => Err(BadFilter::Operation),
        }
    }

    fn leaf(self) -> Result<Node, BadFilter> {
        let wanted = match &*self.cmp {
            "ex" | "nex" => (false, false),
            "in" | "nin" => (false, true),
            _ => (true, false),
        };
        let negated = matches!(&*self.cmp, "neq" | "nin" | "nex");
        let has = (!self.val.is_empty(), !self.vals.is_empty());
        let has_key = !self.key.is_empty() || wanted == (false, false);
        let key = Box::from(self.key);
        let number = |relation| {
            let number = Number::parse(&self.val).ok_or(BadFilter::NotANumber);
            number.map(|number| Test::Number(relation, number.into_owned()))
        };
        let text = || Box::from(&*self.val);
        let test = match &*self.cmp {
            "eq" | "neq" => Ok(Test::Is(text())),
            "in" | "nin" => Ok(Test::IsOneOf(ascending(self.vals))),
            "ex" | "nex" => Ok(Test::Exists),
            "sw" => Ok(Test::StartsWith(text())),
            "ew" => Ok(Test::EndsWith(text())),
            "ct" => Ok(Test::Contains(text())),
            "lt" => number(Relation::Less),
            "lte" => number(Relation::LessOrEqual),
            "gt" => number(Relation::Greater),
            "gte" => number(Relation::GreaterOrEqual),
            _ => return Err(BadFilter::Comparison),
        };
        if has != wanted || !has_key {
            return Err(BadFilter::Operands);
        }
        test.map(|test| Node::Leaf { key, test, negated })
    }
}

fn ascending(mut values: Vec<Box<str>>) -> Box<[Box<str>]> {
    values.sort_unstable();
    values.dedup();
    values.into()
}

#[cfg(test)]
mod tests;

//! Filters by tags from JSON.
//!
//! A filter is read on its own, from its raw text, so that a bad one spoils its command only. Each node
//! is read by a visitor that knows how much has been read before it, and nothing is kept beyond the
//! bounds.

use super::Text;
use crate::wire::client::filter::{BadFilter, Draft, Filter, Node, Reading};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// The filter in one JSON document; the empty text is none.
pub(super) fn filter(document: &str) -> Result<Option<Box<Filter>>, BadFilter> {
    if document.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader {
        reading: Reading::default(),
        bad: BadFilter::Malformed,
    };
    let mut document = serde_json::Deserializer::from_str(document);
    match AnyNode(&mut reader).deserialize(&mut document) {
        Ok(draft) => draft.filter(),
        Err(_) => Err(reader.bad),
    }
}

struct Reader {
    reading: Reading,
    /// What an error means: errors of the deserializer itself are about the form.
    bad: BadFilter,
}

impl Reader {
    fn check<T, E: Error>(&mut self, result: Result<T, BadFilter>) -> Result<T, E> {
        result.map_err(|bad| {
            self.bad = bad;
            E::custom(bad)
        })
    }
}

/// A node; `null` is an empty one.
struct AnyNode<'r>(&'r mut Reader);

impl<'de> DeserializeSeed<'de> for AnyNode<'_> {
    type Value = Draft<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Draft<'de>, D::Error> {
        let entered = self.0.reading.enter();
        self.0.check(entered)?;
        let reader = &mut *self.0;
        let draft = deserializer.deserialize_any(AnyNode(reader))?;
        let left = self.0.reading.leave(&draft);
        self.0.check(left)?;
        Ok(draft)
    }
}

impl<'de> Visitor<'de> for AnyNode<'_> {
    type Value = Draft<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Draft<'de>, M::Error> {
        let mut draft = Draft::default();
        while let Some(Text(name)) = map.next_key()? {
            match name.as_ref() {
                "op" => draft.op = map.next_value::<Text<'_>>()?.0,
                "cmp" => draft.cmp = map.next_value::<Text<'_>>()?.0,
                "key" => draft.key = map.next_value::<Text<'_>>()?.0,
                "val" => draft.val = map.next_value::<Text<'_>>()?.0,
                "vals" => draft.vals = map.next_value_seed(Values(self.0))?,
                "nodes" => draft.nodes = map.next_value_seed(Nodes(self.0))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(draft)
    }

    fn visit_unit<E: Error>(self) -> Result<Draft<'de>, E> {
        Ok(Draft::default())
    }
}

/// Declares a list that is read with an eye on the bounds; `null` is the empty list.
macro_rules! list {
    ($name:ident of $item:ty: $next:expr) => {
        struct $name<'r>(&'r mut Reader);

        impl<'de> DeserializeSeed<'de> for $name<'_> {
            type Value = Vec<$item>;

            fn deserialize<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<Vec<$item>, D::Error> {
                deserializer.deserialize_any(self)
            }
        }

        impl<'de> Visitor<'de> for $name<'_> {
            type Value = Vec<$item>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Vec<$item>, S::Error> {
                let mut list = Vec::new();
                while let Some(item) = $next(&mut *self.0, &mut seq)? {
                    list.push(item);
                }
                Ok(list)
            }

            fn visit_unit<E: Error>(self) -> Result<Vec<$item>, E> {
                Ok(Vec::new())
            }
        }
    };
}

list!(Values of Box<str>: next_value);
list!(Nodes of Node: next_node);

fn next_value<'de, S: SeqAccess<'de>>(
    reader: &mut Reader,
    seq: &mut S,
) -> Result<Option<Box<str>>, S::Error> {
    let Some(Text(value)) = seq.next_element()? else {
        return Ok(None);
    };
    let counted = reader.reading.value(&value);
    reader.check(counted)?;
    Ok(Some(value.into()))
}

fn next_node<'de, S: SeqAccess<'de>>(
    reader: &mut Reader,
    seq: &mut S,
) -> Result<Option<Node>, S::Error> {
    let Some(draft) = seq.next_element_seed(AnyNode(reader))? else {
        return Ok(None);
    };
    reader.check(draft.node()).map(Some)
}

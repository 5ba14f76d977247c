//! Structs that are read from objects only.

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::marker::PhantomData;

/// A struct that stands for itself in an object of named fields. Serde by itself takes a list of the
/// fields' values for one as well, which nobody means who writes a list.
#[derive(Clone, Copy, Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Point {
        x: u8,
        next: Option<Object<Box<Point>>>,
    }

    #[test]
    fn a_list_is_no_struct() {
        let read = |text| serde_json::from_str::<Object<Point>>(text).map(|point| point.0);
        let point = read(r#"{"x":1,"next":{"x":2,"next":null}}"#).expect("an object");
        assert_eq!((point.x, point.next.map(|next| next.0.x)), (1, Some(2)));
        for wrong in [
            "[1,null]",
            r#"{"x":1,"next":[2,null]}"#,
            "1",
            r#"{"x":1,"x":1}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}

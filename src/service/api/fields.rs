//! Fields of a request's JSON, read strictly: a value of another type is refused with the name of its
//! field. `null` is as good as a missing field, and fields that nobody asks for are ignored.

use super::error::ApiError;
use crate::base::{Epoch, Offset, Overrides};
use crate::limits;
use crate::mesh::Position;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// The fields of one object.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    /// Where the object stands in the request; empty for the request itself.
    path: String,
    fields: Vec<(String, &'a RawValue)>,
}

impl<'a> Fields<'a> {
    /// The fields of `value`, which stands at `path`.
    ///
    /// # Errors
    /// When it is no object, has a field twice or more than [`limits::API_FIELDS_MAX`] fields.
    pub(super) fn of(value: &'a RawValue, path: String) -> Result<Self, ApiError> {
        match serde_json::from_str(value.get()) {
            Ok(Object(fields)) => Ok(Self { path, fields }),
            Err(_) => {
                let name = if path.is_empty() { "body" } else { &path };
                let expected = "object expected, of few fields, each once";
                Err(ApiError::field(name, expected))
            }
        }
    }

    /// The names of all fields with their values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.fields.iter().map(|(name, value)| (&**name, *value))
    }

    /// The value of a field, whatever it is, `null` too.
    pub(super) fn document(&self, name: &str) -> Option<&'a RawValue> {
        let mut fields = self.iter();
        fields.find_map(|(other, value)| (other == name).then_some(value))
    }

    /// The value of a field that is there.
    pub(super) fn value(&self, name: &str) -> Option<&'a RawValue> {
        self.document(name).filter(|value| value.get() != "null")
    }

    /// Whether a field is there and says anything: not `null`, `false`, `0`, `""`, `{}` or `[]`.
    pub(super) fn is_set(&self, name: &str) -> bool {
        let empty = ["false", "0", "\"\"", "{}", "[]"];
        self.value(name)
            .is_some_and(|value| !empty.contains(&value.get()))
    }

    /// A string; `None` when it is missing or empty.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, ApiError> {
        let text: Option<String> = self.read(name, "string expected")?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// A string of at most `bytes_max` bytes; `None` when it is missing or empty.
    pub(super) fn short_text(
        &self,
        name: &str,
        bytes_max: usize,
    ) -> Result<Option<String>, ApiError> {
        match self.text(name)? {
            Some(text) if text.len() > bytes_max => {
                let expected = format!("at most {bytes_max} bytes expected");
                Err(self.refuse(name, &expected))
            }
            text => Ok(text),
        }
    }

    /// A boolean; `false` when it is missing.
    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        Ok(self.read(name, "boolean expected")?.unwrap_or(false))
    }

    /// An unsigned integer; 0 when it is missing.
    pub(super) fn unsigned(&self, name: &str) -> Result<u64, ApiError> {
        let expected = "integer of at least 0 expected";
        Ok(self.read(name, expected)?.unwrap_or(0))
    }

    /// An integer; 0 when it is missing.
    pub(super) fn integer(&self, name: &str) -> Result<i64, ApiError> {
        Ok(self.read(name, "integer expected")?.unwrap_or(0))
    }

    /// An object; `None` when it is missing.
    pub(super) fn object(&self, name: &str) -> Result<Option<Fields<'a>>, ApiError> {
        self.value(name)
            .map(|value| Fields::of(value, self.path_of(name)))
            .transpose()
    }

    /// The elements of a list of at most `len_max`; none when it is missing.
    pub(super) fn list(&self, name: &str, len_max: usize) -> Result<Vec<&'a RawValue>, ApiError> {
        let elements = self.read::<Vec<&RawValue>>(name, "list expected")?;
        let elements = elements.unwrap_or_default();
        if elements.len() > len_max {
            let expected = format!("at most {len_max} elements expected");
            return Err(self.refuse(name, &expected));
        }
        Ok(elements)
    }

    /// The strings of a list, as [`Fields::list`].
    pub(super) fn texts(&self, name: &str, len_max: usize) -> Result<Vec<String>, ApiError> {
        let elements = self.list(name, len_max)?.into_iter().enumerate();
        elements
            .map(|(index, element)| {
                serde_json::from_str(element.get())
                    .map_err(|_| self.refuse(&format!("{name}[{index}]"), "string expected"))
            })
            .collect()
    }

    /// A place in a channel's history; `None` when it is missing.
    pub(super) fn position(&self, name: &str) -> Result<Option<Position>, ApiError> {
        let Some(position) = self.object(name)? else {
            return Ok(None);
        };
        Ok(Some(Position {
            epoch: Epoch::wanted(&position.text("epoch")?.unwrap_or_default()),
            offset: Offset(position.unsigned("offset")?),
        }))
    }

    /// The field `override`, channel options for one subscription; none when it is missing.
    pub(super) fn overrides(&self) -> Result<Overrides, ApiError> {
        let expected = "object of channel options, each an object with a boolean value, expected";
        Ok(self.read("override", expected)?.unwrap_or_default())
    }

    /// Why a field is refused.
    pub(super) fn refuse(&self, name: &str, expected: &str) -> ApiError {
        ApiError::field(&self.path_of(name), expected)
    }

    /// Where a field of this object stands in the request.
    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            return name.to_owned();
        }
        format!("{}.{name}", self.path)
    }

    fn read<T: Deserialize<'a>>(&self, name: &str, expected: &str) -> Result<Option<T>, ApiError> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        match serde_json::from_str(value.get()) {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(self.refuse(name, expected)),
        }
    }
}

/// Names and values of an object.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut fields: Vec<(String, &RawValue)> = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let is_known = fields.iter().any(|(other, _)| *other == name);
                    if is_known || fields.len() == limits::API_FIELDS_MAX {
                        return Err(A::Error::custom("a field too many"));
                    }
                    fields.push((name, map.next_value()?));
                }
                Ok(Object(fields))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Result<Fields<'_>, ApiError> {
        Fields::of(serde_json::from_str(text).unwrap(), String::new())
    }

    fn message(error: ApiError) -> String {
        let mut out = Vec::new();
        error.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_value_of_another_type_is_refused_by_the_name_of_its_field() {
        let text = r#"{"a":1,"b":"x","c":{"d":[1]},"e":-1,"f":1.5}"#;
        let fields = fields(text).unwrap();
        assert!(message(fields.text("a").unwrap_err()).contains("a: string expected"));
        assert!(message(fields.flag("b").unwrap_err()).contains("b: boolean expected"));
        assert!(message(fields.unsigned("e").unwrap_err()).contains("e: integer"));
        assert!(message(fields.integer("f").unwrap_err()).contains("f: integer expected"));
        assert!(message(fields.object("b").unwrap_err()).contains("b: object expected"));
        let inner = fields.object("c").unwrap().unwrap();
        assert!(message(inner.texts("d", 9).unwrap_err()).contains("c.d[0]: string expected"));
        assert!(message(inner.list("d", 0).unwrap_err()).contains("c.d: at most 0"));
    }

    #[test]
    fn null_is_a_missing_field_but_a_document() {
        let fields = fields(r#"{"a":null}"#).unwrap();
        assert_eq!(fields.text("a"), Ok(None));
        assert_eq!(fields.text("b"), Ok(None));
        assert_eq!(fields.document("a").unwrap().get(), "null");
        assert!(fields.value("a").is_none() && !fields.is_set("a"));
    }

    #[test]
    fn fields_are_few_and_there_once() {
        assert!(fields(r#"{"a":1,"\u0061":2}"#).is_err());
        assert!(fields("[]").is_err() && fields("7").is_err());
        let many: Vec<String> = (0..=limits::API_FIELDS_MAX)
            .map(|index| format!("\"f{index}\":0"))
            .collect();
        assert!(fields(&format!("{{{}}}", many.join(","))).is_err());
        assert!(fields(&format!("{{{}}}", many[1..].join(","))).is_ok());
    }
}

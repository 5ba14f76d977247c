//! What a token or a service says of one subscription instead of its namespace.

use super::object::Object;
use serde::Deserialize;

/// Channel options for one subscription; `None` where the namespace decides.
///
/// Read from an object of objects: `{"presence":{"value":true}}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Object<Raw>")]
pub struct Overrides {
    /// Who is there can be asked for.
    pub presence: Option<bool>,
    /// Joins and leaves are announced.
    pub join_leave: Option<bool>,
    /// The subscriber is told of them without asking.
    pub force_push_join_leave: Option<bool>,
    /// The subscription is recoverable.
    pub force_recovery: Option<bool>,
    /// The subscription is positioned.
    pub force_positioning: Option<bool>,
}

impl Overrides {
    /// As a number below 2^10: for each option in order two bits, the lower one set when it is given and
    /// the higher one what it is.
    pub fn bits(self) -> u16 {
        let options = [
            self.presence,
            self.join_leave,
            self.force_push_join_leave,
            self.force_recovery,
            self.force_positioning,
        ];
        let bits = |option: Option<bool>| option.map_or(0, |value| 1 | u16::from(value) << 1);
        let places = options.into_iter().zip((0..).step_by(2));
        places.fold(0, |all, (option, place)| all | bits(option) << place)
    }

    /// The options that [`Overrides::bits`] made the number from.
    pub fn from_bits(bits: u16) -> Self {
        let option = |place: u16| {
            let given = bits >> (2 * place);
            (given & 1 != 0).then_some(given & 2 != 0)
        };
        Self {
            presence: option(0),
            join_leave: option(1),
            force_push_join_leave: option(2),
            force_recovery: option(3),
            force_positioning: option(4),
        }
    }
}

#[derive(Deserialize)]
struct Raw {
    presence: Option<Object<Value>>,
    join_leave: Option<Object<Value>>,
    force_push_join_leave: Option<Object<Value>>,
    force_recovery: Option<Object<Value>>,
    force_positioning: Option<Object<Value>>,
}

#[derive(Deserialize)]
struct Value {
    /// Libraries that leave out defaults write `false` as `{}`.
    #[serde(default)]
    value: bool,
}

impl From<Object<Raw>> for Overrides {
    fn from(Object(raw): Object<Raw>) -> Self {
        let value = |option: Option<Object<Value>>| option.map(|Object(option)| option.value);
        Self {
            presence: value(raw.presence),
            join_leave: value(raw.join_leave),
            force_push_join_leave: value(raw.force_push_join_leave),
            force_recovery: value(raw.force_recovery),
            force_positioning: value(raw.force_positioning),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_read_back_from_their_bits() {
        let some = Overrides {
            presence: Some(true),
            force_push_join_leave: Some(false),
            force_positioning: Some(true),
            ..Overrides::default()
        };
        for overrides in [some, Overrides::default()] {
            assert_eq!(Overrides::from_bits(overrides.bits()), overrides);
        }
        assert_eq!(Overrides::default().bits(), 0);
    }

    #[test]
    fn an_option_is_an_object_and_false_may_be_left_out() {
        let read = |text: &str| serde_json::from_str::<Overrides>(text);
        let overrides =
            read(r#"{"presence":{"value":true},"join_leave":{},"force_recovery":null}"#);
        let expected = Overrides {
            presence: Some(true),
            join_leave: Some(false),
            ..Overrides::default()
        };
        assert_eq!(overrides.ok(), Some(expected));
        for wrong in ["[true]", r#"{"presence":true}"#, r#"{"presence":[true]}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}

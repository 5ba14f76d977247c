//! Filters by tags from Protobuf.
//!
//! Read field by field, not as a message of the schema, so that nothing is kept beyond the bounds and a
//! bad filter spoils its command only.

use crate::wire::client::filter::{BadFilter, Draft, Filter, Reading};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use std::borrow::Cow;

/// The filter in the bytes of one message.
pub(super) fn filter(message: &[u8]) -> Result<Option<Box<Filter>>, BadFilter> {
    node(message, &mut Reading::default())?.filter()
}

/// Of a repeated field the last counts, but for values and nodes.
fn node<'a>(mut fields: &'a [u8], reading: &mut Reading) -> Result<Draft<'a>, BadFilter> {
    reading.enter()?;
    let mut draft = Draft::default();
    while !fields.is_empty() {
        let (field, wire_type) = decode_key(&mut fields).map_err(malformed)?;
        if !(1..=6).contains(&field) {
            let context = DecodeContext::default();
            skip_field(wire_type, field, &mut fields, context).map_err(malformed)?;
            continue;
        }
        let bytes = take_delimited(wire_type, &mut fields).ok_or(BadFilter::Malformed)?;
        if field == 6 {
            draft.nodes.push(node(bytes, reading)?.node()?);
            continue;
        }
        let text = std::str::from_utf8(bytes).map_err(|_| BadFilter::Malformed)?;
        match field {
            1 => draft.op = Cow::Borrowed(text),
            2 => draft.key = Cow::Borrowed(text),
            3 => draft.cmp = Cow::Borrowed(text),
            4 => draft.val = Cow::Borrowed(text),
            _ => {
                reading.value(text)?;
                draft.vals.push(text.into());
            }
        }
    }
    reading.leave(&draft)?;
    Ok(draft)
}

fn take_delimited<'a>(wire_type: WireType, fields: &mut &'a [u8]) -> Option<&'a [u8]> {
    if wire_type != WireType::LengthDelimited {
        return None;
    }
    let length = usize::try_from(decode_varint(fields).ok()?).ok()?;
    let (taken, rest) = fields.split_at_checked(length)?;
    *fields = rest;
    Some(taken)
}

fn malformed(_: DecodeError) -> BadFilter {
    BadFilter::Malformed
}

//! What requests carry for clients: documents, bytes in base64, tags. Checked here, once, where it
//! enters the broker.

use super::error::ApiError;
use super::fields::Fields;
use crate::base::Content;
use crate::limits;
use crate::wire::client::flat;
use crate::wire::payload::json_depth_is_allowed;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Bytes and what they are; no bytes when nothing was said.
#[derive(Debug, Default)]
pub(super) struct Blob<'a> {
    pub(super) content: Content,
    pub(super) bytes: Cow<'a, [u8]>,
}

/// What is published: `data` or `b64data`. `null` is a document.
pub(super) fn payload<'a>(fields: &Fields<'a>) -> Result<Blob<'a>, ApiError> {
    let document = fields.document("data");
    read(
        fields,
        document,
        ("data", "b64data"),
        limits::API_PAYLOAD_MAX,
    )
}

/// The field `name`, any JSON document but `null`, or `b64_name`, bytes in base64, of at most
/// `bytes_max` bytes.
pub(super) fn blob<'a>(
    fields: &Fields<'a>,
    name: &str,
    b64_name: &str,
    bytes_max: usize,
) -> Result<Blob<'a>, ApiError> {
    read(fields, fields.value(name), (name, b64_name), bytes_max)
}

fn read<'a>(
    fields: &Fields<'a>,
    document: Option<&'a RawValue>,
    (name, b64_name): (&str, &str),
    bytes_max: usize,
) -> Result<Blob<'a>, ApiError> {
    let encoded = fields.text(b64_name)?;
    let (name, blob) = match (document, encoded) {
        (Some(_), Some(_)) => {
            let expected = format!("not together with {b64_name} expected");
            return Err(fields.refuse(name, &expected));
        }
        (None, None) => return Ok(Blob::default()),
        (Some(document), None) => {
            let bytes = document.get().as_bytes();
            if !json_depth_is_allowed(bytes) {
                let expected = format!("at most {} levels expected", limits::JSON_DEPTH_MAX);
                return Err(fields.refuse(name, &expected));
            }
            let blob = Blob {
                content: Content::Json,
                bytes: Cow::Borrowed(bytes),
            };
            (name, blob)
        }
        (None, Some(encoded)) => {
            let Ok(bytes) = STANDARD.decode(encoded) else {
                return Err(fields.refuse(b64_name, "base64 expected"));
            };
            let blob = Blob {
                content: Content::Bytes,
                bytes: Cow::Owned(bytes),
            };
            (b64_name, blob)
        }
    };
    if blob.bytes.len() > bytes_max {
        let expected = format!("at most {bytes_max} bytes expected");
        return Err(fields.refuse(name, &expected));
    }
    Ok(blob)
}

/// The field `tags`, an object of strings, in its flat form.
pub(super) fn tags(fields: &Fields<'_>) -> Result<Vec<u8>, ApiError> {
    let mut flat = Vec::new();
    let Some(tags) = fields.object("tags")? else {
        return Ok(flat);
    };
    for (name, _) in tags.iter() {
        let value = tags.text(name)?.unwrap_or_default();
        let bytes = flat.len() + name.len() + value.len() + 4;
        if bytes > limits::TAGS_BYTES_MAX {
            let expected = format!("at most {} bytes expected", limits::TAGS_BYTES_MAX);
            return Err(fields.refuse("tags", &expected));
        }
        flat::push_tag(&mut flat, name, &value);
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields<'_> {
        Fields::of(serde_json::from_str(text).unwrap(), String::new()).unwrap()
    }

    #[test]
    fn a_document_keeps_its_text() {
        let fields = fields(r#"{"data": { "a" : 1.0e2 , "b":"\u00e4" } }"#);
        let blob = blob(&fields, "data", "b64data", 100).unwrap();
        assert_eq!(&*blob.bytes, br#"{ "a" : 1.0e2 , "b":"\u00e4" }"#);
        assert_eq!(blob.content, Content::Json);
    }

    #[test]
    fn null_can_be_published_and_is_nothing_elsewhere() {
        let fields = fields(r#"{"data":null}"#);
        assert_eq!(&*payload(&fields).unwrap().bytes, b"null");
        assert!(
            blob(&fields, "data", "b64data", 9)
                .unwrap()
                .bytes
                .is_empty()
        );
    }

    #[test]
    fn bytes_come_in_base64() {
        let given = fields(r#"{"b64data":"AP8="}"#);
        let blob_given = blob(&given, "data", "b64data", 2).unwrap();
        assert_eq!(
            (&*blob_given.bytes, blob_given.content),
            (&[0, 255][..], Content::Bytes)
        );
        for refused in [
            r#"{"b64data":"AP8"}"#,
            r#"{"b64data":"%"}"#,
            r#"{"b64data":7}"#,
            r#"{"b64data":"AAAA"}"#,
            r#"{"data":[],"b64data":"AP8="}"#,
            r#"{"data":123}"#,
        ] {
            assert!(
                blob(&fields(refused), "data", "b64data", 2).is_err(),
                "{refused}"
            );
        }
    }

    #[test]
    fn documents_nest_no_deeper_than_clients_can_read() {
        let depth = limits::JSON_DEPTH_MAX;
        let nested =
            |depth: usize| format!("{{\"data\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        let bytes_max = 10 * depth;
        assert!(blob(&fields(&nested(depth)), "data", "b64data", bytes_max).is_ok());
        assert!(blob(&fields(&nested(depth + 1)), "data", "b64data", bytes_max).is_err());
        assert!(blob(&fields(&nested(4 * depth)), "data", "b64data", bytes_max).is_err());
    }

    #[test]
    fn tags_are_strings_and_bounded() {
        let flat = tags(&fields(r#"{"tags":{"lang":"en","x":""}}"#)).unwrap();
        let pairs: Vec<_> = flat::Tags::from_flat(&flat).iter().collect();
        assert_eq!(pairs, [("lang", "en"), ("x", "")]);
        assert!(tags(&fields(r#"{"tags":{"lang":1}}"#)).is_err());
        let long = format!(
            r#"{{"tags":{{"a":"{}"}}}}"#,
            "x".repeat(limits::TAGS_BYTES_MAX)
        );
        assert!(tags(&fields(&long)).is_err());
    }
}

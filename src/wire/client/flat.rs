//! Values of the client protocol as bytes that end to end make lists: how they lie in histories and
//! cross lanes, so that neither has to know them.
//!
//! All integers are little-endian.
//!
//! ```text
//! data         content u8, length u32, bytes
//! info         user length u16, user, client length u16, client, conn_info data, chan_info data
//! tags         (key length u16, key, value length u16, value)*
//! publication  offset u64, data, info length u32, info or nothing, tags length u32, tags
//! ```

use super::{ClientInfo, Data, Publication};
use crate::base::Content;

/// Key and value pairs, flat.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Tags<'a>(&'a [u8]);

impl std::fmt::Debug for Tags<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<'a> Tags<'a> {
    /// Tags as [`push_tag`] wrote them. Bytes that are no tags end the list.
    pub fn from_flat(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn as_flat(self) -> &'a [u8] {
        self.0
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The pairs in their order.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut rest = self.0;
        std::iter::from_fn(move || Some((take_text(&mut rest)?, take_text(&mut rest)?)))
    }
}

/// Appends a pair; key and value are at most 65,535 bytes each.
pub fn push_tag(out: &mut Vec<u8>, key: &str, value: &str) {
    put_text(out, key);
    put_text(out, value);
}

/// Appends a client's info.
pub fn push_info(out: &mut Vec<u8>, info: &ClientInfo<'_>) {
    put_text(out, info.user);
    put_text(out, info.client);
    put_data(out, info.conn_info);
    put_data(out, info.chan_info);
}

/// Takes a client's info from the front of `bytes`; `None` at their end.
pub fn take_info<'a>(bytes: &mut &'a [u8]) -> Option<ClientInfo<'a>> {
    Some(ClientInfo {
        user: take_text(bytes)?,
        client: take_text(bytes)?,
        conn_info: take_data(bytes)?,
        chan_info: take_data(bytes)?,
    })
}

/// Appends a publication; `delta` is not kept.
pub fn push_publication(out: &mut Vec<u8>, publication: &Publication<'_>) {
    out.extend_from_slice(&publication.offset.to_le_bytes());
    put_data(out, publication.data);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    if let Some(info) = &publication.info {
        push_info(out, info);
        let length = (out.len() - at - 4) as u32;
        out[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }
    put_bytes(out, publication.tags.as_flat());
}

/// Takes a publication from the front of `bytes`; `None` at their end.
pub fn take_publication<'a>(bytes: &mut &'a [u8]) -> Option<Publication<'a>> {
    let offset = u64::from_le_bytes(*take_array(bytes)?);
    let data = take_data(bytes)?;
    let mut info = take_bytes(bytes)?;
    let tags = Tags::from_flat(take_bytes(bytes)?);
    Some(Publication {
        offset,
        data,
        info: take_info(&mut info),
        tags,
        delta: false,
    })
}

/// All publications in `bytes`.
pub fn publications(mut bytes: &[u8]) -> impl Iterator<Item = Publication<'_>> {
    std::iter::from_fn(move || take_publication(&mut bytes))
}

/// All infos in `bytes`.
pub fn infos(mut bytes: &[u8]) -> impl Iterator<Item = ClientInfo<'_>> {
    std::iter::from_fn(move || take_info(&mut bytes))
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("names and tags are bounded where they enter");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("payloads are far below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_data(out: &mut Vec<u8>, data: Data<'_>) {
    out.push(data.content as u8);
    put_bytes(out, data.bytes);
}

fn take_array<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(taken)
}

fn take_slice<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = u16::from_le_bytes(*take_array(bytes)?);
    std::str::from_utf8(take_slice(bytes, usize::from(length))?).ok()
}

fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(*take_array(bytes)?);
    take_slice(bytes, length as usize)
}

fn take_data<'a>(bytes: &mut &'a [u8]) -> Option<Data<'a>> {
    let [content] = *take_array(bytes)?;
    Some(Data {
        content: Content::from_bits(content)?,
        bytes: take_bytes(bytes)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(content: Content, bytes: &[u8]) -> Data<'_> {
        Data { content, bytes }
    }

    #[test]
    fn what_is_taken_is_what_was_pushed() {
        let mut tags = Vec::new();
        push_tag(&mut tags, "lang", "en");
        push_tag(&mut tags, "", "x");
        let info = ClientInfo {
            user: "42",
            client: "c",
            conn_info: data(Content::Json, b"{}"),
            chan_info: Data::default(),
        };
        let publications_in = [
            Publication {
                offset: 7,
                data: data(Content::Bytes, &[0, 255]),
                info: Some(info),
                tags: Tags::from_flat(&tags),
                delta: false,
            },
            Publication::default(),
        ];
        let mut flat = Vec::new();
        for publication in &publications_in {
            push_publication(&mut flat, publication);
        }
        assert!(publications(&flat).eq(publications_in));
        let pairs: Vec<_> = Tags::from_flat(&tags).iter().collect();
        assert_eq!(pairs, [("lang", "en"), ("", "x")]);
        let mut list = Vec::new();
        push_info(&mut list, &info);
        push_info(&mut list, &info);
        assert_eq!(infos(&list).count(), 2);
    }

    #[test]
    fn cut_bytes_end_the_list() {
        let mut flat = Vec::new();
        push_publication(&mut flat, &Publication::default());
        for cut in 0..flat.len() {
            assert_eq!(publications(&flat[..cut]).count(), 0);
        }
    }
}

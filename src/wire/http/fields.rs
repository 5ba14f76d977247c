//! Which header fields an upgrade needs, which a request must not have, and how their values are
//! read: exact tokens, whatever their case, in comma lists over any number of lines.

use super::{Refusal, Refused, Upgrade, bad};
use crate::limits::UPGRADE_PROTOCOLS_MAX;
use tungstenite::handshake::derive_accept_key;

/// The header fields that matter here.
#[derive(Default)]
pub(super) struct Fields<'h> {
    host: Option<&'h str>,
    key: Option<&'h str>,
    version: Option<&'h str>,
    origin: Option<&'h str>,
    upgrade_has_websocket: bool,
    connection_has_upgrade: bool,
    /// Any `Sec-WebSocket-*` field: the client means WebSocket, even if it does not say so rightly.
    has_websocket_fields: bool,
    protocols: Vec<&'h str>,
}

impl<'h> Fields<'h> {
    pub(super) fn collect(headers: &[httparse::Header<'h>]) -> Result<Self, Refused> {
        let mut fields = Self::default();
        for header in headers {
            fields.take(header.name, header.value)?;
        }
        match fields.host {
            Some(host) if host_is_plain(host) => Ok(fields),
            _ => bad("one Host field expected"),
        }
    }

    fn take(&mut self, name: &str, value: &'h [u8]) -> Result<(), Refused> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("host") {
            set_once(&mut self.host, value, "one Host field expected")?;
        } else if is("content-length") {
            if value.trim_ascii() != b"0" {
                return bad("request without a body expected");
            }
        } else if is("transfer-encoding") {
            return bad("request without a body expected");
        } else if is("connection") {
            self.connection_has_upgrade |= list_has(value, b"upgrade");
        } else if is("upgrade") {
            self.upgrade_has_websocket |= list_has(value, b"websocket");
        } else if is("origin") {
            set_once(&mut self.origin, value, "at most one Origin field expected")?;
        } else if is("sec-websocket-key") {
            set_once(&mut self.key, value, "one Sec-WebSocket-Key field expected")?;
        } else if is("sec-websocket-version") {
            set_once(
                &mut self.version,
                value,
                "one Sec-WebSocket-Version field expected",
            )?;
        } else if is("sec-websocket-protocol") {
            self.take_protocols(value)?;
        }
        const WEBSOCKET_PREFIX: &str = "sec-websocket-";
        self.has_websocket_fields |= name
            .get(..WEBSOCKET_PREFIX.len())
            .is_some_and(|prefix| prefix.eq_ignore_ascii_case(WEBSOCKET_PREFIX));
        Ok(())
    }

    /// One field of offered subprotocols. A client may send it empty when it offers none.
    fn take_protocols(&mut self, value: &'h [u8]) -> Result<(), Refused> {
        for protocol in list(value) {
            if !is_token(protocol) || self.protocols.len() == UPGRADE_PROTOCOLS_MAX {
                return bad("Sec-WebSocket-Protocol of at most 16 tokens expected");
            }
            let Ok(protocol) = std::str::from_utf8(protocol) else {
                return bad("Sec-WebSocket-Protocol of at most 16 tokens expected");
            };
            if self.protocols.contains(&protocol) {
                return bad("Sec-WebSocket-Protocol without repetition expected");
            }
            self.protocols.push(protocol);
        }
        Ok(())
    }

    pub(super) fn asks_for_websocket(&self) -> bool {
        self.upgrade_has_websocket || self.has_websocket_fields
    }

    /// The rules of RFC 6455 section 4.2.1.
    pub(super) fn upgrade(self, path: &str, query: Option<&str>) -> Result<Upgrade, Refused> {
        if !self.upgrade_has_websocket {
            return bad("Upgrade: websocket expected");
        }
        if !self.connection_has_upgrade {
            return bad("Connection: Upgrade expected");
        }
        match self.version {
            Some("13") => {}
            Some(_) => {
                let expected = "Sec-WebSocket-Version: 13 expected";
                return Err((Refusal::VersionNotSupported, expected));
            }
            None => return bad("Sec-WebSocket-Version: 13 expected"),
        }
        let key = match self.key {
            Some(key) if key_is_valid(key.as_bytes()) => key,
            _ => return bad("Sec-WebSocket-Key of 16 bytes in base64 expected"),
        };
        let mut accept = [0; 28];
        for (to, from) in accept
            .iter_mut()
            .zip(derive_accept_key(key.as_bytes()).bytes())
        {
            *to = from;
        }
        Ok(Upgrade {
            path: path.to_owned(),
            query: query.map(str::to_owned),
            origin: self.origin.map(str::to_owned),
            accept,
            protocols: self.protocols.into_iter().map(str::to_owned).collect(),
        })
    }
}

/// Sets a field that may come once.
fn set_once<'h>(
    field: &mut Option<&'h str>,
    value: &'h [u8],
    expected: &'static str,
) -> Result<(), Refused> {
    let value = value.trim_ascii();
    match std::str::from_utf8(value) {
        Ok(value) if field.is_none() && value.is_ascii() => {
            *field = Some(value);
            Ok(())
        }
        _ => bad(expected),
    }
}

/// Whether a `Host` value has only what an authority without user information may have.
fn host_is_plain(host: &str) -> bool {
    !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+;=".contains(&byte))
}

/// The elements of a comma list, without the empty ones (RFC 9110 section 5.6.1).
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

fn list_has(value: &[u8], token: &[u8]) -> bool {
    list(value).any(|element| element.eq_ignore_ascii_case(token))
}

/// RFC 9110 section 5.6.2.
fn is_token(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Base64 of 16 bytes: 22 digits and two pads. Unused bits of the last digit may be anything, as
/// the key is only ever hashed as text.
fn key_is_valid(key: &[u8]) -> bool {
    let Some((digits, pads)) = key.split_last_chunk::<2>() else {
        return false;
    };
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    pads == b"==" && digits.len() == 22 && digits.iter().all(is_digit)
}

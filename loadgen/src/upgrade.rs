//! The client's side of the WebSocket upgrade (RFC 6455 section 4.1): the key, the request, and the
//! check of the answer.
//!
//! A connection keeps the eight bytes that its key was made from, not the key. The accept key is
//! derived by tungstenite and the response parsed by httparse, so that the broker's own code is not
//! checked with itself.

use crate::tally::Failure;
use tungstenite::handshake::derive_accept_key;

/// Bytes of a response head that are looked at.
pub(crate) const HEAD_BYTES_MAX: usize = 4 * 1024;
const FIELDS_MAX: usize = 32;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A sequence of numbers that differ from run to run; SplitMix64, no secret.
#[derive(Debug)]
pub(crate) struct Numbers(u64);

impl Numbers {
    /// The sequence that `seed` starts.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

/// The key of a connection: 16 bytes in base64, all from `seed`.
pub(crate) fn key(seed: u64) -> [u8; 24] {
    let mut numbers = Numbers::new(seed);
    let bits = u128::from(numbers.next()) << 64 | u128::from(numbers.next());
    let mut key = [b'='; 24];
    for (index, digit) in key[..22].iter_mut().enumerate() {
        // The last of the 22 digits has two bits of the 128, at its upper end.
        let sextet = if index < 21 {
            bits >> (122 - 6 * index)
        } else {
            bits << 4
        };
        *digit = BASE64[(sextet & 63) as usize];
    }
    key
}

/// Appends the request.
pub(crate) fn write_request(
    out: &mut Vec<u8>,
    host: &str,
    path: &[u8],
    subprotocol: Option<&str>,
    seed: u64,
) {
    for part in [
        b"GET ",
        path,
        b" HTTP/1.1\r\nHost: ",
        host.as_bytes(),
        b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
        b"Sec-WebSocket-Key: ",
        &key(seed),
        b"\r\n",
    ] {
        out.extend_from_slice(part);
    }
    if let Some(subprotocol) = subprotocol {
        out.extend_from_slice(b"Sec-WebSocket-Protocol: ");
        out.extend_from_slice(subprotocol.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Checks the response at the start of `input`: the bytes of its head, or `None` while some are
/// missing.
pub(crate) fn check_response(
    input: &[u8],
    subprotocol: Option<&str>,
    seed: u64,
) -> Result<Option<usize>, Failure> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let head_bytes = match response.parse(input) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if input.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) | Err(_) => return Err(Failure::UpgradeMalformed),
    };
    match response.code {
        Some(101) => {}
        status => return Err(Failure::UpgradeStatus(status.unwrap_or(0))),
    }
    let value = |name: &str| {
        let mut named = response
            .headers
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case(name));
        // A field that is there twice is as bad as none.
        named.next().filter(|_| named.next().is_none())
    };
    let says = |name, expected: &str| {
        value(name).is_some_and(|field| field.value.eq_ignore_ascii_case(expected.as_bytes()))
    };
    let has = |name: &str| {
        let mut fields = response.headers.iter();
        fields.any(|field| field.name.eq_ignore_ascii_case(name))
    };
    // A list, RFC 6455 section 4.1.
    let connection = response
        .headers
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("Connection"));
    let is_upgrade = connection
        .flat_map(|field| field.value.split(|byte| *byte == b','))
        .any(|word| word.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    if !says("Upgrade", "websocket") || !is_upgrade {
        return Err(Failure::UpgradeMalformed);
    }
    let is_right = match subprotocol {
        Some(wanted) => says("Sec-WebSocket-Protocol", wanted),
        None => !has("Sec-WebSocket-Protocol"),
    };
    if !is_right {
        return Err(Failure::Subprotocol);
    }
    if has("Sec-WebSocket-Extensions") {
        return Err(Failure::Extension);
    }
    let accept = derive_accept_key(&key(seed));
    match value("Sec-WebSocket-Accept") {
        Some(field) if field.value == accept.as_bytes() => Ok(Some(head_bytes)),
        _ => Err(Failure::AcceptKey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(accept: &str) -> String {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )
    }

    #[test]
    fn keys_are_sixteen_bytes_in_canonical_base64() {
        for seed in 0..1_000 {
            let key = key(seed);
            assert!(key.ends_with(b"=="));
            assert!(key[..22].iter().all(|digit| BASE64.contains(digit)));
            assert!(b"AQgw".contains(&key[21]), "unused bits must be 0");
        }
        assert_ne!(key(1), key(2));
    }

    #[test]
    fn the_request_is_one_that_tungstenite_takes() {
        let mut request = Vec::new();
        write_request(
            &mut request,
            "127.0.0.1:8000",
            b"/connection/websocket",
            None,
            7,
        );
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Request::new(&mut fields);
        assert!(parsed.parse(&request).unwrap().is_complete());
        assert_eq!(parsed.path, Some("/connection/websocket"));
        assert_eq!(parsed.headers.len(), 5);
    }

    #[test]
    fn a_right_response_is_taken_when_it_is_whole() {
        let accept = derive_accept_key(&key(7));
        let response = response(&accept);
        for end in 0..response.len() {
            assert_eq!(
                check_response(&response.as_bytes()[..end], None, 7),
                Ok(None)
            );
        }
        let all = Ok(Some(response.len()));
        assert_eq!(check_response(response.as_bytes(), None, 7), all);
        let more = response.clone() + "\u{81}";
        assert_eq!(check_response(more.as_bytes(), None, 7), all);
    }

    #[test]
    fn the_subprotocol_is_asked_for_and_has_to_be_chosen() {
        let mut request = Vec::new();
        write_request(&mut request, "h", b"/", Some("mqtt"), 7);
        assert!(request.ends_with(b"\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"));
        let plain = response(&derive_accept_key(&key(7)));
        let check = |text: &str| check_response(text.as_bytes(), Some("mqtt"), 7);
        assert_eq!(check(&plain), Err(Failure::Subprotocol));
        let chosen = plain.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n");
        assert_eq!(check(&chosen), Ok(Some(chosen.len())));
    }

    #[test]
    fn connection_is_a_list_and_nothing_may_be_chosen_that_was_not_asked_for() {
        let plain = response(&derive_accept_key(&key(7)));
        let check =
            |text: &str| check_response(text.as_bytes(), None, 7).map(|bytes| bytes.is_some());
        let list = plain.replace("upgrade\r\n", "keep-alive, Upgrade\r\n");
        assert!(list != plain && check(&list) == Ok(true));
        let none = plain.replace("upgrade\r\n", "keep-alive, upgraded\r\n");
        assert_eq!(check(&none), Err(Failure::UpgradeMalformed));
        let with = |field: &str| plain.replace("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"));
        let subprotocol = with("Sec-WebSocket-Protocol: mqtt");
        assert_eq!(check(&subprotocol), Err(Failure::Subprotocol));
        let extension = with("Sec-WebSocket-Extensions: permessage-deflate");
        assert_eq!(check(&extension), Err(Failure::Extension));
    }

    #[test]
    fn a_wrong_response_is_refused_by_its_fault() {
        let accept = derive_accept_key(&key(7));
        let check = |response: &str| check_response(response.as_bytes(), None, 7).unwrap_err();
        assert_eq!(check(&response("c2FtcGxl")), Failure::AcceptKey);
        let twice = format!("{accept}\r\nSec-WebSocket-Accept: {accept}");
        assert_eq!(check(&response(&twice)), Failure::AcceptKey);
        let busy = "HTTP/1.1 503 Service Unavailable\r\n\r\n";
        assert_eq!(check(busy), Failure::UpgradeStatus(503));
        let plain = response(&accept).replace("WebSocket\r\nConnection", "h2c\r\nConnection");
        assert_eq!(check(&plain), Failure::UpgradeMalformed);
        assert_eq!(check("SSH-2.0-OpenSSH\r\n"), Failure::UpgradeMalformed);
        assert_eq!(check_response(&[b'H'; 1], None, 7), Ok(None));
    }
}

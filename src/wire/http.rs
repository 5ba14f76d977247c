//! The HTTP request that opens a connection, and the answers to it (RFC 9112, RFC 6455 section 4).
//!
//! A head is looked through once, byte by byte as it arrives, for its end and for what cannot be a
//! request; it is parsed once, when it is whole. When it arrives in one piece it is never copied.
//!
//! One connection is one request: every refusal and every page closes the connection, bodies are
//! not read, and a request that declares one is refused, so nothing can hide behind the head. Bytes
//! behind an upgrade's head are frames, once the caller has answered 101. Where HTTP lets a server
//! be lenient, this one is not: proxies in front may read a doubtful head otherwise.

mod answer;
mod fields;
#[cfg(any(test, fuzzing))]
mod fuzz;

pub use answer::{Refusal, write_page, write_refusal, write_switching_protocols};
#[cfg(any(test, fuzzing))]
pub use fuzz::fuzz_upgrade;

use crate::limits::{UPGRADE_BYTES_MAX, UPGRADE_HEADERS_MAX};
use fields::Fields;

/// What has come in of a request's head. Holds no memory until a head comes in parts.
#[derive(Debug, Default)]
pub struct RequestHead {
    /// The head so far; empty while it may still arrive in one piece.
    buffer: Vec<u8>,
    scan: Scan,
}

/// What the bytes so far amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadStep {
    /// The head is not whole yet.
    More,
    /// A WebSocket upgrade that keeps all rules; path, origin and protocols are the caller's choice.
    Upgrade(Upgrade),
    /// A GET that does not ask for WebSocket.
    Get {
        /// The target up to the query, not decoded.
        path: String,
    },
    /// The request is refused; the text says what was expected and goes to [`write_refusal`].
    Refuse(Refusal, &'static str),
}

/// An upgrade request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The target up to the query, not decoded.
    pub path: String,
    /// The target behind the first `?`, not decoded.
    pub query: Option<String>,
    /// The `Origin` header: browsers always send it.
    pub origin: Option<String>,
    /// Value of `Sec-WebSocket-Accept` that answers the request's key.
    pub accept: [u8; 28],
    /// Offered subprotocols, each a token, in the client's order of preference, none twice.
    pub protocols: Vec<String>,
}

impl RequestHead {
    /// Nothing received.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes received bytes: how many of `input` belong to the head, and what it is so far. After
    /// any step but [`HeadStep::More`] the head is done with and the rest of `input` is not HTTP.
    pub fn feed(&mut self, input: &[u8]) -> (usize, HeadStep) {
        let before = self.buffer.len();
        let taken = &input[..input.len().min(UPGRADE_BYTES_MAX - before)];
        let bytes = if before == 0 {
            taken
        } else {
            self.buffer.extend_from_slice(taken);
            &self.buffer
        };
        let (end, step) = match self.scan.advance(bytes) {
            Ok(Some(end)) => (end, parse(&bytes[..end])),
            Err((refusal, expected)) => (bytes.len(), HeadStep::Refuse(refusal, expected)),
            Ok(None) if bytes.len() == UPGRADE_BYTES_MAX => {
                let expected = "request head of at most 8192 bytes expected";
                (
                    bytes.len(),
                    HeadStep::Refuse(Refusal::HeadTooLarge, expected),
                )
            }
            Ok(None) => {
                if before == 0 {
                    self.buffer.extend_from_slice(taken);
                }
                return (taken.len(), HeadStep::More);
            }
        };
        *self = Self::default();
        (end - before, step)
    }
}

type Refused = (Refusal, &'static str);

/// Where the search for the end of a head stands.
#[derive(Debug, Default)]
struct Scan {
    /// Bytes looked at.
    scanned: usize,
    /// Where the current line begins; at most `scanned`.
    line_start: usize,
    /// Lines that have ended.
    lines: usize,
}

impl Scan {
    /// Looks at the bytes of `head` that are new: the length of the head when its empty line is
    /// there.
    fn advance(&mut self, head: &[u8]) -> Result<Option<usize>, Refused> {
        if self.scanned == 0 && head.first().is_some_and(|byte| !byte.is_ascii_uppercase()) {
            // TLS, or no HTTP at all: no need to wait for a line that may never end.
            return bad("HTTP request over plain TCP expected");
        }
        while let Some(found) = head[self.scanned..].iter().position(|&byte| byte == b'\n') {
            let line_feed = self.scanned + found;
            let line = &head[self.line_start..line_feed];
            self.scanned = line_feed + 1;
            self.line_start = self.scanned;
            self.lines += 1;
            match line {
                b"\r" => return Ok(Some(self.scanned)),
                [b' ' | b'\t', ..] => return bad("header fields of one line expected"),
                [.., b'\r'] => {}
                _ => return bad("lines that end with CR LF expected"),
            }
            if self.lines > UPGRADE_HEADERS_MAX + 1 {
                let expected = "request head of at most 64 fields expected";
                return Err((Refusal::HeadTooLarge, expected));
            }
        }
        self.scanned = head.len();
        Ok(None)
    }
}

fn bad<T>(expected: &'static str) -> Result<T, Refused> {
    Err((Refusal::BadRequest, expected))
}

/// A whole head, up to and including its empty line.
fn parse(head: &[u8]) -> HeadStep {
    parse_request(head).unwrap_or_else(|(refusal, expected)| HeadStep::Refuse(refusal, expected))
}

fn parse_request(head: &[u8]) -> Result<HeadStep, Refused> {
    let mut headers = [httparse::EMPTY_HEADER; UPGRADE_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(end)) if end == head.len() => {}
        Err(httparse::Error::Version) => return http_version(),
        Err(httparse::Error::TooManyHeaders) => {
            let expected = "request head of at most 64 fields expected";
            return Err((Refusal::HeadTooLarge, expected));
        }
        Ok(_) | Err(_) => return bad("HTTP/1.1 request expected"),
    }
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return bad("HTTP/1.1 request expected");
    };
    if version != 1 {
        return http_version();
    }
    if method != "GET" {
        return Err((Refusal::MethodNotAllowed, "GET expected"));
    }
    let (path, query) = split_target(target)?;
    let fields = Fields::collect(request.headers)?;
    if !fields.asks_for_websocket() {
        return Ok(HeadStep::Get {
            path: path.to_owned(),
        });
    }
    fields.upgrade(path, query).map(HeadStep::Upgrade)
}

fn http_version<T>() -> Result<T, Refused> {
    Err((Refusal::HttpVersionNotSupported, "HTTP/1.1 expected"))
}

/// Path and query of a target in origin form (RFC 9112 section 3.2.1), the only form served.
fn split_target(target: &str) -> Result<(&str, Option<&str>), Refused> {
    let is_plain = target
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !target.starts_with('/') || !is_plain {
        return bad("request target in origin form expected: /path?query");
    }
    Ok(match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    })
}

#[cfg(test)]
mod tests {
    use super::fuzz::read;
    use super::*;
    use crate::limits::UPGRADE_PROTOCOLS_MAX;
    use proptest::prelude::*;

    const GET: &str = "GET /connection/websocket HTTP/1.1\r\nHost: localhost:8000\r\n";
    const FIELDS: [&str; 4] = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];

    /// An upgrade request with the given lines added.
    fn request(more: &[&str]) -> String {
        let lines: Vec<&str> = FIELDS.iter().chain(more).copied().collect();
        format!("{GET}{}\r\n\r\n", lines.join("\r\n"))
    }

    /// An upgrade request in which the line that begins with `name` is `line`, or is left out.
    fn request_with(name: &str, line: &str) -> String {
        let kept = FIELDS.iter().filter(|field| !field.starts_with(name));
        let lines: Vec<&str> = kept
            .copied()
            .chain([line])
            .filter(|line| !line.is_empty())
            .collect();
        format!("{GET}{}\r\n\r\n", lines.join("\r\n"))
    }

    /// The verdict on `request`, the same whatever the reads.
    fn verdict(request: &str) -> HeadStep {
        let (_, whole) = read(request.as_bytes(), request.len());
        assert_eq!(read(request.as_bytes(), 1).1, whole);
        whole
    }

    #[track_caller]
    fn upgrade(request: &str) -> Upgrade {
        match verdict(request) {
            HeadStep::Upgrade(upgrade) => upgrade,
            other => panic!("{request:?} gave {other:?}"),
        }
    }

    #[track_caller]
    fn refusal(request: &str) -> Refusal {
        match verdict(request) {
            HeadStep::Refuse(refusal, _) => refusal,
            other => panic!("{request:?} gave {other:?}"),
        }
    }

    #[test]
    fn the_request_of_the_rfc_is_accepted_with_its_answer() {
        let upgrade = upgrade(&request(&["Origin: http://example.com"]));
        assert_eq!(&upgrade.accept, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(upgrade.path, "/connection/websocket");
        assert_eq!(upgrade.query, None);
        assert_eq!(upgrade.origin.as_deref(), Some("http://example.com"));
        assert!(upgrade.protocols.is_empty());
    }

    #[test]
    fn the_query_is_split_off() {
        let request = request(&[]).replace("websocket HTTP", "websocket?a=b?c&d HTTP");
        let upgrade = upgrade(&request);
        assert_eq!(upgrade.path, "/connection/websocket");
        assert_eq!(upgrade.query.as_deref(), Some("a=b?c&d"));
    }

    #[test]
    fn bytes_behind_the_head_are_left() {
        let request = request(&[]);
        let stream = format!("{request}frames");
        for cut in [0, 1, 20, request.len() - 1] {
            let mut head = RequestHead::new();
            let (first, second) = stream.as_bytes().split_at(cut);
            assert_eq!(head.feed(first), (cut, HeadStep::More));
            let (used, step) = head.feed(second);
            assert_eq!(&second[used..], b"frames");
            assert!(matches!(step, HeadStep::Upgrade(_)));
        }
    }

    #[test]
    fn a_head_in_one_piece_is_not_copied() {
        let mut head = RequestHead::new();
        head.feed(request(&[]).as_bytes());
        assert_eq!(head.buffer.capacity(), 0);
    }

    #[test]
    fn no_byte_is_looked_at_twice_for_the_end_of_the_head() {
        let request = request(&[]);
        let mut head = RequestHead::new();
        for (index, byte) in request.as_bytes()[..request.len() - 1].iter().enumerate() {
            assert_eq!(head.feed(&[*byte]), (1, HeadStep::More));
            assert_eq!(head.scan.scanned, index + 1);
        }
    }

    #[test]
    fn tokens_are_found_in_lists_whatever_their_case() {
        for line in [
            "Connection: keep-alive, Upgrade",
            "connection:upgrade",
            "CONNECTION: \tUPGRADE\t, ,",
            "Connection: keep-alive\r\nConnection: Upgrade",
        ] {
            upgrade(&request_with("Connection", line));
        }
        for line in ["upgrade: WebSocket", "Upgrade: h2c, websocket"] {
            upgrade(&request_with("Upgrade", line));
        }
    }

    #[test]
    fn a_token_must_match_exactly() {
        for line in [
            "",
            "Connection: Upgraded",
            "Connection: keep-alive Upgrade",
            "Connection: \"Upgrade\"",
        ] {
            assert_eq!(
                refusal(&request_with("Connection", line)),
                Refusal::BadRequest
            );
        }
        for line in [
            "",
            "Upgrade: websockets",
            "Upgrade: websocket/13",
            "Upgrade: h2c",
        ] {
            assert_eq!(refusal(&request_with("Upgrade", line)), Refusal::BadRequest);
        }
    }

    #[test]
    fn protocols_come_in_lists_and_several_lines() {
        let upgrade = upgrade(&request(&[
            "Sec-WebSocket-Protocol: centrifuge-json ,, centrifuge-protobuf",
            "sec-websocket-protocol: other",
        ]));
        let expected = ["centrifuge-json", "centrifuge-protobuf", "other"];
        assert_eq!(upgrade.protocols, expected);
    }

    #[test]
    fn an_empty_protocol_field_counts_as_absent() {
        for line in ["Sec-WebSocket-Protocol:", "Sec-WebSocket-Protocol: \t "] {
            assert!(upgrade(&request(&[line])).protocols.is_empty());
        }
    }

    #[test]
    fn protocols_must_be_few_tokens_each_once() {
        let many: Vec<String> = (0..=UPGRADE_PROTOCOLS_MAX)
            .map(|n| format!("p{n}"))
            .collect();
        let many = format!("Sec-WebSocket-Protocol: {}", many.join(","));
        for line in [
            "Sec-WebSocket-Protocol: a b",
            "Sec-WebSocket-Protocol: a;b",
            "Sec-WebSocket-Protocol: a, a",
            &many,
        ] {
            assert_eq!(refusal(&request(&[line])), Refusal::BadRequest);
        }
    }

    #[test]
    fn the_key_must_be_16_bytes_in_base64() {
        for key in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZ===",
            "dGhlIHNhbXBsZSBub25jZQ=A",
            "dGhlIHNhbXBsZSBub25j_Q==",
            "dGhlIHNhbXBsZSBub25jZWU=",
            "dGhlIHNhbXBsZSBub25jZWVl",
        ] {
            let line = format!("Sec-WebSocket-Key: {key}");
            assert_eq!(
                refusal(&request_with("Sec-WebSocket-Key", &line)),
                Refusal::BadRequest
            );
        }
        assert_eq!(
            refusal(&request_with("Sec-WebSocket-Key", "")),
            Refusal::BadRequest
        );
    }

    #[test]
    fn only_version_13_is_spoken() {
        let with = |line| refusal(&request_with("Sec-WebSocket-Version", line));
        assert_eq!(
            with("Sec-WebSocket-Version: 8"),
            Refusal::VersionNotSupported
        );
        assert_eq!(
            with("Sec-WebSocket-Version: 13, 8"),
            Refusal::VersionNotSupported
        );
        assert_eq!(with(""), Refusal::BadRequest);
    }

    #[test]
    fn fields_that_must_be_single_are() {
        for line in [
            "Host: other",
            "Host: localhost:8000",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
            "Origin: http://a\r\nOrigin: http://b",
        ] {
            assert_eq!(refusal(&request(&[line])), Refusal::BadRequest, "{line}");
        }
    }

    #[test]
    fn a_host_is_needed_and_plain() {
        for host in [
            "",
            "Host:\r\n",
            "Host: a, b\r\n",
            "Host: u@a\r\n",
            "Host: a/b\r\n",
        ] {
            let request = request(&[]).replace("Host: localhost:8000\r\n", host);
            assert_eq!(refusal(&request), Refusal::BadRequest, "{host}");
        }
    }

    #[test]
    fn a_request_that_declares_a_body_is_refused() {
        for line in [
            "Content-Length: 5",
            "Content-Length: 00",
            "Content-Length: 0, 5",
            "Content-Length: +0",
            "Content-Length: 0\r\nContent-Length: 5",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: identity",
        ] {
            assert_eq!(refusal(&request(&[line])), Refusal::BadRequest, "{line}");
            let page = format!("{GET}{line}\r\n\r\n");
            assert_eq!(refusal(&page), Refusal::BadRequest, "{line}");
        }
        upgrade(&request(&["Content-Length: 0"]));
    }

    #[test]
    fn lines_end_with_cr_lf_and_nothing_else() {
        let good = request(&["X-A: b"]);
        for (from, to) in [
            ("HTTP/1.1\r\n", "HTTP/1.1\n"),
            ("X-A: b\r\n", "X-A: b\n"),
            ("X-A: b\r\n\r\n", "X-A: b\n\n"),
            ("X-A: b\r\n\r\n", "X-A: b\r\n\n"),
            ("X-A: b", "X-A: b\rc"),
            ("X-A: b", "X-A: b\r\r"),
            ("X-A: b", "X-A: b\r\n folded"),
            ("X-A: b", "X-A: b\r\n\tfolded"),
            ("X-A: b", "X-A: b\r\n "),
            ("X-A: b", "X-A: b\0"),
            ("X-A: b", "X-A : b"),
            ("X-A: b", "X-A"),
            ("X-A: b", ": b"),
            ("X-A: b", "X\u{e4}: b"),
            ("GET /", "\r\nGET /"),
            ("GET /", " GET /"),
            ("GET /", "GET  /"),
        ] {
            let request = good.replacen(from, to, 1);
            assert_ne!(request, good);
            assert_eq!(refusal(&request), Refusal::BadRequest, "{from:?} as {to:?}");
        }
        upgrade(&good);
    }

    #[test]
    fn the_target_is_in_origin_form() {
        for target in [
            "http://a/connection",
            "*",
            "a:80",
            "a",
            "/a#b",
            "/\u{e4}",
            "?a",
        ] {
            let request = request(&[]).replacen("/connection/websocket", target, 1);
            assert_eq!(refusal(&request), Refusal::BadRequest, "{target}");
        }
    }

    #[test]
    fn only_get_over_http_1_1_is_served() {
        for method in ["POST", "HEAD", "OPTIONS", "CONNECT", "GETS"] {
            let request = request(&[]).replacen("GET", method, 1);
            assert_eq!(refusal(&request), Refusal::MethodNotAllowed, "{method}");
        }
        assert_eq!(
            refusal(&request(&[]).replacen("GET", "get", 1)),
            Refusal::BadRequest
        );
        for version in ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0"] {
            let request = request(&[]).replacen("HTTP/1.1", version, 1);
            assert_eq!(
                refusal(&request),
                Refusal::HttpVersionNotSupported,
                "{version}"
            );
        }
        assert_eq!(refusal("GET /\r\n\r\n"), Refusal::BadRequest);
    }

    #[test]
    fn what_is_no_http_is_refused_at_its_first_byte() {
        for first in [0x16, 0, b'\r', b'{', 0xff] {
            let step = RequestHead::new().feed(&[first]).1;
            assert!(matches!(step, HeadStep::Refuse(Refusal::BadRequest, _)));
        }
    }

    #[test]
    fn a_get_without_upgrade_asks_for_a_page() {
        let page = |path: &str| HeadStep::Get {
            path: path.to_owned(),
        };
        assert_eq!(verdict("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), page("/"));
        assert_eq!(verdict("GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n"), page("/a"));
        // Some clients offer HTTP/2 with every request; a server may go on without.
        let h2c = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
        assert_eq!(verdict(h2c), page("/"));
    }

    #[test]
    fn a_head_has_at_most_8192_bytes() {
        let room = UPGRADE_BYTES_MAX - request(&["X: "]).len();
        let fits = request(&[&format!("X: {}", "a".repeat(room))]);
        assert_eq!(fits.len(), UPGRADE_BYTES_MAX);
        upgrade(&fits);
        let too_large = request(&[&format!("X: {}", "a".repeat(room + 1))]);
        assert_eq!(refusal(&too_large), Refusal::HeadTooLarge);
    }

    #[test]
    fn a_head_has_at_most_64_fields() {
        let fill = |count| vec!["X: y"; count];
        // Host and the four fields of the upgrade count too.
        upgrade(&request(&fill(UPGRADE_HEADERS_MAX - 5)));
        let too_many = request(&fill(UPGRADE_HEADERS_MAX - 4));
        assert_eq!(refusal(&too_many), Refusal::HeadTooLarge);
        let endless = "X: y\r\n".repeat(UPGRADE_HEADERS_MAX);
        assert_eq!(refusal(&format!("{GET}{endless}")), Refusal::HeadTooLarge);
    }

    #[test]
    fn the_fuzz_seeds_keep_every_promise() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/upgrade");
        let mut seeds = 0;
        for entry in std::fs::read_dir(corpus).expect("the seeds are in the repository") {
            fuzz_upgrade(&std::fs::read(entry.unwrap().path()).unwrap());
            seeds += 1;
        }
        assert!(seeds > 0);
    }

    proptest! {
        #[test]
        fn a_changed_byte_keeps_every_promise(
            cut in any::<u8>(),
            place in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut data = vec![cut];
            data.extend_from_slice(request(&["Sec-WebSocket-Protocol: a, b"]).as_bytes());
            let place = 1 + place.index(data.len() - 1);
            data[place] = byte;
            fuzz_upgrade(&data);
        }
    }
}

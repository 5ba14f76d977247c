//! The answers to a request: the switch to WebSocket, refusals, pages. Each is whole when written.

use crate::limits::REFUSAL_RETRY_AFTER_S;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// 400: not a valid request or not a valid upgrade.
    BadRequest,
    /// 403: the origin is not allowed.
    Forbidden,
    /// 404: nothing has this path.
    NotFound,
    /// 405: only GET is served.
    MethodNotAllowed,
    /// 426: a WebSocket version other than 13.
    VersionNotSupported,
    /// 431: more bytes or header fields than the limits allow.
    HeadTooLarge,
    /// 503: no room for another connection.
    Overloaded,
    /// 505: an HTTP version other than 1.1.
    HttpVersionNotSupported,
}

/// Appends the answer that accepts an upgrade. `protocol` is one of those that were offered.
pub fn write_switching_protocols(out: &mut Vec<u8>, accept: &[u8; 28], protocol: Option<&str>) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: ",
    );
    out.extend_from_slice(accept);
    if let Some(protocol) = protocol {
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        out.extend_from_slice(protocol.as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// Appends a whole answer that refuses a request; `detail` becomes its body. The caller closes the
/// connection behind it.
pub fn write_refusal(out: &mut Vec<u8>, refusal: Refusal, detail: &str) {
    let (status, field) = match refusal {
        Refusal::BadRequest => ("400 Bad Request", ""),
        Refusal::Forbidden => ("403 Forbidden", ""),
        Refusal::NotFound => ("404 Not Found", ""),
        Refusal::MethodNotAllowed => ("405 Method Not Allowed", "Allow: GET\r\n"),
        Refusal::VersionNotSupported => (
            "426 Upgrade Required",
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
        ),
        Refusal::HeadTooLarge => ("431 Request Header Fields Too Large", ""),
        Refusal::Overloaded => ("503 Service Unavailable", ""),
        Refusal::HttpVersionNotSupported => ("505 HTTP Version Not Supported", ""),
    };
    write_status(out, status);
    out.extend_from_slice(field.as_bytes());
    if refusal == Refusal::Overloaded {
        write_field(out, "Retry-After", REFUSAL_RETRY_AFTER_S as usize);
    }
    write_field(out, "Content-Length", detail.len() + 1);
    out.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n");
    out.extend_from_slice(detail.as_bytes());
    out.push(b'\n');
}

/// Appends a whole answer with a page. The caller closes the connection behind it.
pub fn write_page(out: &mut Vec<u8>, content_type: &str, body: &[u8]) {
    write_status(out, "200 OK");
    out.extend_from_slice(b"Content-Type: ");
    out.extend_from_slice(content_type.as_bytes());
    out.extend_from_slice(b"\r\n");
    write_field(out, "Content-Length", body.len());
    out.extend_from_slice(b"Cache-Control: no-cache\r\nConnection: close\r\n\r\n");
    out.extend_from_slice(body);
}

fn write_status(out: &mut Vec<u8>, status: &str) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn write_field(out: &mut Vec<u8>, name: &str, value: usize) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_whole_answer_that_closes() {
        for refusal in [
            Refusal::BadRequest,
            Refusal::Forbidden,
            Refusal::NotFound,
            Refusal::MethodNotAllowed,
            Refusal::VersionNotSupported,
            Refusal::HeadTooLarge,
            Refusal::Overloaded,
            Refusal::HttpVersionNotSupported,
        ] {
            let mut out = Vec::new();
            write_refusal(&mut out, refusal, "something else expected");
            let (status, fields, body) = response(&out);
            assert!((400..=505).contains(&status));
            assert_eq!(body, b"something else expected\n");
            assert!(fields.contains(&("Connection".into(), "close".into())));
            assert!(fields.contains(&("Content-Length".into(), body.len().to_string())));
            let has = |name: &str| fields.iter().any(|(field, _)| field == name);
            assert_eq!(has("Sec-WebSocket-Version"), status == 426);
            assert_eq!(has("Retry-After"), status == 503);
            assert_eq!(has("Allow"), status == 405);
        }
    }

    #[test]
    fn the_101_carries_accept_key_and_protocol() {
        let mut out = Vec::new();
        write_switching_protocols(
            &mut out,
            b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
            Some("centrifuge-json"),
        );
        let (status, fields, body) = response(&out);
        assert_eq!((status, body), (101, &b""[..]));
        for (name, value) in [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ("Sec-WebSocket-Protocol", "centrifuge-json"),
        ] {
            assert!(fields.contains(&(name.into(), value.into())), "{name}");
        }
        out.clear();
        write_switching_protocols(&mut out, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", None);
        assert_eq!(response(&out).1.len(), 3);
    }

    #[test]
    fn a_page_is_a_whole_answer() {
        let mut out = Vec::new();
        write_page(&mut out, "text/html; charset=utf-8", b"<p>hello");
        let (status, fields, body) = response(&out);
        assert_eq!((status, body), (200, &b"<p>hello"[..]));
        assert!(fields.contains(&("Content-Type".into(), "text/html; charset=utf-8".into())));
        assert!(fields.contains(&("Connection".into(), "close".into())));
    }

    /// Status, fields and body of an answer.
    fn response(bytes: &[u8]) -> (u16, Vec<(String, String)>, &[u8]) {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut headers);
        let end = response.parse(bytes).expect("a valid answer").unwrap();
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("ASCII");
        let fields = response
            .headers
            .iter()
            .map(|header| (header.name.to_owned(), text(header.value)))
            .collect();
        (response.code.expect("a status"), fields, &bytes[end..])
    }
}

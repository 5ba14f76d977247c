//! HTTP by hand: the tests' own reader of answers.

use super::{dial, read_to_end};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};

/// An answer whose connection was closed behind it.
#[derive(Debug)]
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    /// Status line and fields.
    pub(crate) head: String,
    /// The body.
    pub(crate) body: String,
}

/// GETs a page.
pub(crate) fn get(address: SocketAddr, path: &str) -> Response {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    request(address, head.as_bytes())
}

/// Sends the bytes and reads the answer to the end of the stream.
pub(crate) fn request(address: SocketAddr, bytes: &[u8]) -> Response {
    let mut stream = dial(address);
    stream.write_all(bytes).expect("request");
    answer(&mut stream)
}

/// Reads an answer to the end of the stream.
pub(crate) fn answer(stream: &mut TcpStream) -> Response {
    let bytes = read_to_end(stream, "an HTTP answer");
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Response {
        status: status.unwrap_or_else(|| panic!("no status: {head}")),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

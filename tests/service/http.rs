//! A backend that calls the server API.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A connection that requests are sent over, one after another.
pub(crate) struct Peer(pub(crate) TcpStream);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The code of the error.
    #[track_caller]
    pub(crate) fn code(&self) -> u64 {
        let code = self.json()["error"]["code"].as_u64();
        code.unwrap_or_else(|| panic!("no error: {self:?}"))
    }
}

impl Peer {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let timeout = Some(Duration::from_secs(15));
        stream.set_read_timeout(timeout).unwrap();
        Self(stream)
    }

    pub(crate) fn send(&mut self, line: &str, fields: &[&str], body: &[u8]) {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let length = body.len();
        let head =
            format!("{line} HTTP/1.1\r\nhost: a\r\n{fields}content-length: {length}\r\n\r\n");
        self.0.write_all(head.as_bytes()).unwrap();
        self.0.write_all(body).unwrap();
    }

    pub(crate) fn answer(&mut self) -> Answer {
        let mut bytes = Vec::new();
        let mut byte = [0];
        while !bytes.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).expect("an answer");
            bytes.push(byte[0]);
        }
        let head = String::from_utf8(bytes).unwrap().to_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head,
            body: String::from_utf8(body).unwrap(),
        }
    }

    pub(crate) fn call(&mut self, method: &str, body: &Value) -> Answer {
        self.call_with(method, &[], body.to_string().as_bytes())
    }

    pub(crate) fn call_with(&mut self, method: &str, fields: &[&str], body: &[u8]) -> Answer {
        self.send(&format!("POST /api/{method}"), fields, body);
        self.answer()
    }

    /// Whether the service has closed.
    pub(crate) fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0))
    }
}

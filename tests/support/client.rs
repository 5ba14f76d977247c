//! A JSON client on tungstenite: an oracle that shares no code with the broker's codec.

use super::{PATIENCE, dial};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use tungstenite::client::IntoClientRequest;
use tungstenite::http::{HeaderName, HeaderValue};
use tungstenite::protocol::WebSocket;
use tungstenite::{Error, HandshakeError, Message};

/// See the module.
pub(crate) struct Client {
    socket: WebSocket<TcpStream>,
    /// Documents that came while another was waited for.
    unread: VecDeque<Value>,
    last_id: u32,
    /// Public id, once connected.
    pub(crate) id: String,
}

/// What a client hears.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Heard {
    /// A JSON document.
    Document(Value),
    /// A pong control frame.
    Pong(Vec<u8>),
    /// A close frame.
    Closed(u16, String),
    /// The stream ended.
    Ended,
}

/// A publication.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Push {
    /// The room.
    pub(crate) channel: String,
    /// The payload as JSON clients see it.
    pub(crate) data: Value,
    /// 0 when the push has none.
    pub(crate) offset: u64,
    /// Client id of the publisher, if it was one.
    pub(crate) publisher: Option<String>,
}

impl Client {
    /// An upgraded connection on which nothing was said yet.
    pub(crate) fn open(address: SocketAddr) -> Self {
        Self::upgrade(address, dial(address), "/connection/websocket", &[])
            .unwrap_or_else(|(status, body)| panic!("refused: {status} {body}"))
            .0
    }

    /// A connection that has connected.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let mut client = Self::open(address);
        client.say_hello();
        client
    }

    /// As [`Client::connect`], on a stream that the caller has prepared.
    pub(crate) fn connect_on(address: SocketAddr, stream: TcpStream) -> Self {
        let (mut client, _) = Self::upgrade(address, stream, "/connection/websocket", &[])
            .unwrap_or_else(|(status, body)| panic!("refused: {status} {body}"));
        client.say_hello();
        client
    }

    /// Upgrades with more header fields; also returns the subprotocol, or status and body of the
    /// refusal.
    pub(crate) fn upgrade(
        address: SocketAddr,
        stream: TcpStream,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Result<(Self, Option<String>), (u16, String)> {
        let mut request = format!("ws://{address}{path}")
            .into_client_request()
            .unwrap();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request
                .headers_mut()
                .insert(name, HeaderValue::from_str(value).unwrap());
        }
        match tungstenite::client(request, stream) {
            Ok((socket, response)) => {
                let protocol = response.headers().get("sec-websocket-protocol");
                let protocol = protocol.map(|value| value.to_str().unwrap().to_owned());
                let client = Self {
                    socket,
                    unread: VecDeque::new(),
                    last_id: 0,
                    id: String::new(),
                };
                Ok((client, protocol))
            }
            Err(HandshakeError::Failure(Error::Http(response))) => {
                let status = response.status().as_u16();
                let body = response.into_body().unwrap_or_default();
                Err((status, String::from_utf8_lossy(&body).into_owned()))
            }
            Err(error) => panic!("upgrade: {error}"),
        }
    }

    /// Sends `connect` and notes the id in the reply.
    pub(crate) fn say_hello(&mut self) -> Value {
        let reply = self.command(json!({"connect": {"name": "test"}}));
        let id = reply.pointer("/connect/client").and_then(Value::as_str);
        self.id = id.unwrap_or_else(|| panic!("connect: {reply}")).to_owned();
        reply
    }

    /// Sends a text message.
    pub(crate) fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).expect("send");
    }

    /// Sends any message.
    pub(crate) fn send_message(&mut self, message: Message) {
        self.socket.send(message).expect("send");
    }

    /// Writes bytes past the codec.
    pub(crate) fn write_raw(&mut self, bytes: &[u8]) {
        self.stream().write_all(bytes).expect("write");
    }

    /// The socket below.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        self.socket.get_mut()
    }

    /// Sends a command and returns its reply; pushes that come before it are kept.
    pub(crate) fn command(&mut self, mut command: Value) -> Value {
        self.last_id += 1;
        command["id"] = self.last_id.into();
        self.send(&command.to_string());
        self.reply(self.last_id)
    }

    /// The reply to the command with this id; pushes that come before it are kept.
    pub(crate) fn reply(&mut self, id: u32) -> Value {
        let mut kept = VecDeque::new();
        loop {
            let document = self.document(&format!("the reply to command {id}"));
            if document["id"] == id {
                kept.append(&mut self.unread);
                self.unread = kept;
                return document;
            }
            assert!(
                document.get("push").is_some(),
                "waiting for reply {id}: {document}"
            );
            kept.push_back(document);
        }
    }

    /// Sends a command that fails and returns its error code.
    pub(crate) fn refused(&mut self, command: Value) -> u64 {
        let text = command.to_string();
        let reply = self.command(command);
        let error = &reply["error"];
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{text}: an error has a message: {reply}"
        );
        error["code"].as_u64().expect("an error code")
    }

    /// Subscribes.
    pub(crate) fn subscribe(&mut self, channel: &str) {
        let reply = self.command(json!({"subscribe": {"channel": channel}}));
        assert_eq!(reply["subscribe"], json!({}), "subscribe: {reply}");
    }

    /// Ends a subscription.
    pub(crate) fn unsubscribe(&mut self, channel: &str) {
        let reply = self.command(json!({"unsubscribe": {"channel": channel}}));
        assert_eq!(reply["unsubscribe"], json!({}), "unsubscribe: {reply}");
    }

    /// Publishes.
    pub(crate) fn publish(&mut self, channel: &str, data: Value) {
        let reply = self.command(json!({"publish": {"channel": channel, "data": data}}));
        assert_eq!(reply["publish"], json!({}), "publish: {reply}");
    }

    /// The next publication; nothing else may come before it.
    pub(crate) fn push(&mut self) -> Push {
        let document = self.document("a publication");
        let push = document
            .get("push")
            .unwrap_or_else(|| panic!("waiting for a publication: {document}"));
        let publication = &push["pub"];
        let client = publication.pointer("/info/client").and_then(Value::as_str);
        Push {
            channel: push["channel"].as_str().expect("a channel").to_owned(),
            data: publication["data"].clone(),
            offset: publication["offset"].as_u64().unwrap_or(0),
            publisher: client.map(str::to_owned),
        }
    }

    /// The next document that is not a ping; pings are answered.
    pub(crate) fn document(&mut self, what: &str) -> Value {
        loop {
            match self.hear(what) {
                Heard::Document(ping) if ping == json!({}) => self.send("{}"),
                Heard::Document(document) => return document,
                other => panic!("waiting for {what}: {other:?}"),
            }
        }
    }

    /// Waits for a close frame, passing over documents.
    pub(crate) fn closed(&mut self, what: &str) -> (u16, String) {
        loop {
            match self.hear(what) {
                Heard::Closed(code, reason) => return (code, reason),
                Heard::Document(_) | Heard::Pong(_) => {}
                Heard::Ended => panic!("{what}: the stream ended without a close frame"),
            }
        }
    }

    /// Starts the close handshake.
    pub(crate) fn close(&mut self, frame: Option<tungstenite::protocol::CloseFrame>) {
        self.socket.close(frame).expect("close");
    }

    /// Whatever comes next.
    pub(crate) fn hear(&mut self, what: &str) -> Heard {
        loop {
            if let Some(document) = self.unread.pop_front() {
                return Heard::Document(document);
            }
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    for line in text.strip_suffix('\n').unwrap_or(&text).split('\n') {
                        let document = serde_json::from_str(line);
                        let document = document.unwrap_or_else(|error| panic!("{line:?}: {error}"));
                        self.unread.push_back(document);
                    }
                }
                Ok(Message::Pong(payload)) => return Heard::Pong(payload.to_vec()),
                Ok(Message::Close(Some(frame))) => {
                    return Heard::Closed(frame.code.into(), frame.reason.to_string());
                }
                Ok(Message::Close(None)) => return Heard::Closed(1005, String::new()),
                Ok(other) => panic!("waiting for {what}: {other:?}"),
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                    panic!("nothing came for {PATIENCE:?}, waiting for {what}")
                }
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return Heard::Ended,
                Err(Error::Io(error)) if error.kind() == ErrorKind::ConnectionReset => {
                    return Heard::Ended;
                }
                Err(Error::Protocol(
                    tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
                )) => return Heard::Ended,
                Err(error) => panic!("waiting for {what}: {error}"),
            }
        }
    }

    /// Vanishes with a reset, as a process that is killed with unread bytes does.
    pub(crate) fn vanish(mut self) {
        let stream = self.stream();
        let linger = Some(std::time::Duration::ZERO);
        socket2::SockRef::from(&*stream).set_linger(linger).unwrap();
    }
}

/// A masked client frame: `first` is FIN, reserved bits and opcode.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = match payload.len() {
        length @ 0..126 => vec![first, 0x80 | length as u8],
        length @ 126..0x1_0000 => {
            let [high, low] = (length as u16).to_be_bytes();
            vec![first, 0x80 | 126, high, low]
        }
        length => frame_with_length(first, length as u64),
    };
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    bytes.extend(mask);
    let masked = payload.iter().zip(mask.iter().cycle());
    bytes.extend(masked.map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The beginning of a masked frame with a 64-bit length, without mask and payload.
pub(crate) fn frame_with_length(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first, 0x80 | 127];
    bytes.extend(length.to_be_bytes());
    bytes
}

//! `ringcast sub`.

use super::fail;
use serde_json::Value;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use tungstenite::{Message, WebSocket};

/// Flags of `ringcast sub`.
#[derive(Debug, clap::Args)]
pub(super) struct SubFlags {
    /// The room
    room: String,
    /// The broker's client address
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    server: SocketAddr,
    /// End after this many publications
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

pub(super) fn run(flags: &SubFlags) -> ExitCode {
    match follow(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error),
    }
}

fn follow(flags: &SubFlags) -> Result<(), String> {
    let stream = TcpStream::connect(flags.server)
        .map_err(|error| format!("cannot connect to {}: {error}", flags.server))?;
    let url = format!("ws://{}/connection/websocket", flags.server);
    let (mut socket, _) = tungstenite::client(url, stream)
        .map_err(|error| format!("{} refused the upgrade: {error}", flags.server))?;
    let subscribe = serde_json::json!({"id": 2, "subscribe": {"channel": flags.room}});
    let commands = format!("{{\"id\":1,\"connect\":{{\"name\":\"cli\"}}}}\n{subscribe}");
    socket
        .send(Message::text(commands))
        .map_err(|error| error.to_string())?;
    let mut left = flags.count.unwrap_or(u64::MAX);
    while left > 0 {
        match socket.read() {
            Ok(Message::Text(text)) => {
                for line in text.lines() {
                    left -= u64::from(take(&mut socket, line)?);
                }
            }
            Ok(Message::Close(Some(frame))) => {
                return Err(format!(
                    "closed by the server: {} {}",
                    frame.code, frame.reason
                ));
            }
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    socket.close(None).map_err(|error| error.to_string())
}

/// Acts on one document; true when it was a publication.
fn take(socket: &mut WebSocket<TcpStream>, line: &str) -> Result<bool, String> {
    let document: Value = serde_json::from_str(line).map_err(|error| format!("{line}: {error}"))?;
    if document.as_object().is_some_and(serde_json::Map::is_empty) {
        socket
            .send(Message::text("{}"))
            .map_err(|error| error.to_string())?;
    }
    if let Some(error) = document.get("error") {
        return Err(format!("refused: {} {}", error["code"], error["message"]));
    }
    let Some(data) = document.pointer("/push/pub/data") else {
        return Ok(false);
    };
    // A reader that has gone away, such as `head`, is no error.
    Ok(writeln!(std::io::stdout(), "{data}").is_ok())
}

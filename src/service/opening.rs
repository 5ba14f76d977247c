//! The opening of an upstream connection: challenge, hello, welcome.
//!
//! The three share one absolute deadline, so that a peer that sends a byte now and then holds nothing
//! for longer. Before the welcome a peer can make us store at most [`limits::UPSTREAM_OPENING_BYTES`].

use super::Shared;
use super::input::Input;
use crate::limits;
use crate::wire::upstream::{
    ErrorCode, Frame, HelloAuth, LENGTH_BYTES, decode, hello_mac_is_valid,
};
use futures_lite::future;
use futures_lite::io::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream;
use glommio::timer::sleep;
use std::time::Duration;

/// For a peer that comes too late.
const GOING_DOWN: &str = "the node is going down";

/// Why the opening ended without a welcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The peer is told this before the close.
    Error {
        request: u64,
        code: ErrorCode,
        text: &'static str,
    },
    /// The peer is gone.
    Gone,
}

/// Opens the connection. What the peer sent behind HELLO stays in `input`.
///
/// # Errors
/// When the peer is not welcome; the caller answers and closes.
pub(super) async fn open(
    shared: &Shared,
    stream: &mut TcpStream,
    input: &mut Input,
    is_loopback: bool,
    credit: u64,
) -> Result<(), Refusal> {
    let deadline = async {
        sleep(Duration::from_millis(shared.upstream_limits.opening_ms)).await;
        Err(refuse(ErrorCode::Unauthorised, "the opening took too long"))
    };
    future::or(
        handshake(shared, stream, input, is_loopback, credit),
        deadline,
    )
    .await
}

async fn handshake(
    shared: &Shared,
    stream: &mut TcpStream,
    input: &mut Input,
    is_loopback: bool,
    credit: u64,
) -> Result<(), Refusal> {
    if shared.draining.get() {
        return Err(refuse(ErrorCode::Draining, GOING_DOWN));
    }
    let mut challenge = [0; 32];
    getrandom::fill(&mut challenge)
        .map_err(|_| refuse(ErrorCode::Internal, "no random numbers for a challenge"))?;
    let node = shared.node_name.as_str();
    let frame = Frame::Challenge {
        node,
        challenge: &challenge,
    };
    send(stream, &frame).await?;
    let request = read_hello(shared, stream, input, &challenge, is_loopback).await?;
    // The drain may have begun meanwhile.
    if shared.draining.get() {
        return Err(Refusal::Error {
            request,
            code: ErrorCode::Draining,
            text: GOING_DOWN,
        });
    }
    let frame = Frame::Welcome {
        request,
        node,
        frame_bytes_max: shared.upstream_limits.frame_bytes_max as u32,
        credit,
    };
    send(stream, &frame).await
}

async fn send(stream: &mut TcpStream, frame: &Frame<'_>) -> Result<(), Refusal> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    stream.write_all(&bytes).await.map_err(|_| Refusal::Gone)
}

/// Reads until HELLO is complete and accepted; its request id.
async fn read_hello(
    shared: &Shared,
    stream: &mut TcpStream,
    input: &mut Input,
    challenge: &[u8; 32],
    is_loopback: bool,
) -> Result<u64, Refusal> {
    loop {
        match decode(input.unread(), limits::UPSTREAM_OPENING_BYTES) {
            Ok(None) => {}
            Ok(Some((frame, frame_bytes))) => {
                let request = check_hello(shared, &frame, challenge, is_loopback)?;
                input.consume(frame_bytes);
                return Ok(request);
            }
            Err(error) => {
                return Err(Refusal::Error {
                    request: error.request,
                    code: error.code,
                    text: error.text,
                });
            }
        }
        // Never empty: with that many bytes the frame is whole or an error.
        let left = (limits::UPSTREAM_OPENING_BYTES + LENGTH_BYTES) - input.unread().len();
        let space = input.space();
        let bytes = left.min(space.len());
        match stream.read(&mut space[..bytes]).await {
            Ok(0) | Err(_) => return Err(Refusal::Gone),
            Ok(bytes) => input.filled(bytes),
        }
    }
}

fn check_hello(
    shared: &Shared,
    frame: &Frame<'_>,
    challenge: &[u8; 32],
    is_loopback: bool,
) -> Result<u64, Refusal> {
    let Frame::Hello {
        request,
        service,
        auth,
    } = *frame
    else {
        return Err(refuse(ErrorCode::Unauthorised, "HELLO comes first"));
    };
    let accepted = match auth {
        HelloAuth::None if !shared.keys.is_empty() => Err("a key is required"),
        HelloAuth::None if !is_loopback => Err("a key is required beyond loopback"),
        HelloAuth::None => Ok(()),
        HelloAuth::Hmac { key_id, mac } => {
            let key = shared.keys.iter().find(|key| key.id == key_id);
            // One text for both faults: which key ids exist is nobody's business.
            key.filter(|key| hello_mac_is_valid(&key.secret, challenge, service, key_id, mac))
                .map(|_| ())
                .ok_or("key or code is wrong")
        }
    };
    accepted.map(|()| request).map_err(|text| Refusal::Error {
        request,
        code: ErrorCode::Unauthorised,
        text,
    })
}

fn refuse(code: ErrorCode, text: &'static str) -> Refusal {
    Refusal::Error {
        request: 0,
        code,
        text,
    }
}

//! Accepting on a listener that was bound elsewhere, one wake-up for all connections that wait.

use super::readable::readable;
use glommio::timer::sleep;
use socket2::{SockRef, TcpKeepalive};
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Pause after an accept that failed for want of descriptors or memory: what is missing comes back
/// only when something else closes.
const RETRY_MS: u64 = 100;

/// Hands every accepted connection to `take`, for ever. `listener` is non-blocking. Dropping the
/// future stops the accepting; connections in the backlog are then reset by the kernel.
pub(super) async fn accept(listener: TcpListener, mut take: impl FnMut(TcpStream)) {
    loop {
        match accept_waiting(&listener, &mut take) {
            Ok(()) if readable(&listener).await.is_ok() => {}
            _ => sleep(Duration::from_millis(RETRY_MS)).await,
        }
    }
}

fn accept_waiting(listener: &TcpListener, take: &mut impl FnMut(TcpStream)) -> std::io::Result<()> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                // Answers are small and flushed in batches; without this they wait for ACKs of TCP.
                let _ = stream.set_nodelay(true);
                // A host that vanished without a word is noticed after two minutes.
                let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive());
                take(stream);
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => return Ok(()),
                // The peer gave up while it waited.
                ErrorKind::ConnectionAborted | ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
}

fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4)
}

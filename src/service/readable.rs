//! Waiting in glommio until a descriptor that is not one of its streams becomes readable.
//!
//! glommio 0.9 has no call for that, and its own listener can be made from a bound socket only
//! with unsafe code. But a glommio stream may be made from any descriptor, the first thing it does
//! is to ask the ring for a readiness poll, and only when that has completed does it call `recv`.
//! On an eventfd or a listener that call fails at once (ENOTSOCK, ENOTCONN) and takes nothing, so
//! its answer, whatever it is, says that the descriptor is readable. The stream is made over a
//! duplicate for one wait and dropped after it: about 3 µs a wait, paid only before a sleep.

use futures_lite::future::poll_fn;
use futures_lite::io::AsyncRead;
use glommio::net::TcpStream;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;

/// Completes when `descriptor` is readable (or hung up). For descriptors on which `recv` fails:
/// eventfds and listening sockets. The caller reads or accepts until it would block.
///
/// # Errors
/// When the descriptor cannot be duplicated (descriptor limit).
pub(super) async fn readable(descriptor: impl AsFd) -> io::Result<()> {
    let duplicate = descriptor.as_fd().try_clone_to_owned()?;
    let mut stream = stream_of(duplicate);
    let mut nothing = [0; 1];
    let answer = poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut nothing)).await;
    debug_assert!(
        answer.is_err(),
        "a stream socket's bytes would be lost here"
    );
    Ok(())
}

/// The glommio stream over `descriptor`.
pub(super) fn stream_of(descriptor: OwnedFd) -> TcpStream {
    let socket = std::net::TcpStream::from(descriptor);
    TcpStream::from(glommio_socket2::Socket::from(socket))
}

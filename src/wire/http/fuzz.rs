//! What a fuzzer checks of the upgrade parser, callable from a plain test as well: the same bytes
//! read with other cuts, and read by tungstenite.

use super::{HeadStep, RequestHead, Upgrade};
use crate::limits::{UPGRADE_BYTES_MAX, UPGRADE_PROTOCOLS_MAX};
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response};

/// Oracle of the fuzz target `upgrade`. The first byte chooses how reads cut the stream, the rest
/// is the stream.
///
/// The verdict and the bytes it takes must not depend on the cuts, and an upgrade must be one to
/// tungstenite too wherever tungstenite understands it.
pub fn fuzz_upgrade(data: &[u8]) {
    let [cut, stream @ ..] = data else {
        return;
    };
    let (used, step) = read(stream, stream.len().max(1));
    assert!(used <= stream.len().min(UPGRADE_BYTES_MAX));
    for part in [1, usize::from(*cut) + 1] {
        let (part_used, part_step) = read(stream, part);
        assert_eq!(part_step, step, "reads of {part} bytes");
        // A refusal may take all that its read brought; what is behind it is not read.
        if !matches!(step, HeadStep::Refuse(..)) {
            assert_eq!(part_used, used, "reads of {part} bytes");
        }
    }
    if let HeadStep::Upgrade(upgrade) = step {
        check_against_tungstenite(&stream[..used], &upgrade);
    }
}

/// What `stream` amounts to when it comes in reads of `part` bytes, and how much of it was taken.
pub(super) fn read(stream: &[u8], part: usize) -> (usize, HeadStep) {
    let mut head = RequestHead::new();
    let mut total = 0;
    for read in stream.chunks(part) {
        let (used, step) = head.feed(read);
        total += used;
        match step {
            HeadStep::More => assert_eq!(used, read.len(), "input left over"),
            step => return (total, step),
        }
    }
    (total, HeadStep::More)
}

fn check_against_tungstenite(head: &[u8], upgrade: &Upgrade) {
    assert!(head.ends_with(b"\r\n\r\n"));
    assert!(upgrade.path.starts_with('/'));
    assert!(upgrade.protocols.len() <= UPGRADE_PROTOCOLS_MAX);
    // tungstenite looks at the first of several Connection fields only, wants `websocket` alone in
    // Upgrade and is strict about characters of the target: what it does not take says nothing.
    let Ok(Some((head_bytes, request))) = Request::try_parse(head) else {
        return;
    };
    assert_eq!(head_bytes, head.len());
    assert_eq!(request.uri().path(), upgrade.path);
    assert_eq!(request.uri().query(), upgrade.query.as_deref());
    let Ok(response) = create_response(&request) else {
        return;
    };
    assert_eq!(
        response.headers()["Sec-WebSocket-Accept"].as_bytes(),
        upgrade.accept
    );
}

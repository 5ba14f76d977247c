//! ORDER frames: what services want done to the connections of a user.

use super::hooks::is_close_reason;
use super::intake::{Desk, Verdict};
use super::orders::Addressee;
use crate::base::NodeId;
use crate::limits::{
    INFO_BYTES_MAX, LANE_FRAME_OVERHEAD, MESSAGE_BYTES_MAX, ROOM_NAME_MAX, USER_NAME_MAX,
};
use crate::mesh::{Delivery, Order};
use crate::wire::payload::payload_is_valid;
use crate::wire::upstream::{AckLevel, ErrorCode, Frame, OrderKind};

/// Puts the order of a frame into the lanes of the shards that it concerns: into all or, while one of
/// them is full, into none.
pub(super) fn order(frame: &Frame<'_>, desk: &mut Desk<'_>) -> Verdict {
    if let Err((code, text)) = check(frame) {
        desk.refuse(frame.request(), code, text);
        return Verdict::Taken;
    }
    let Frame::Order {
        request,
        user,
        kind,
        client,
        channel,
        code,
        text,
        expire_at_s,
        info_content,
        info,
        content,
        data,
    } = *frame
    else {
        return Verdict::Taken;
    };
    // Answers that wait came first, and the order may be for the connections that they let in.
    let is_full = desk.outlets.deliveries_free() < data.len() + LANE_FRAME_OVERHEAD;
    if is_full || desk.hooks.is_waiting() {
        return Verdict::Stalled;
    }
    let mut order = Order {
        kind,
        user,
        client: None,
        room: channel,
        code,
        text,
        expire_at_s,
        since: None,
        overrides: 0,
        info_content,
        info,
        content,
        data,
    };
    let named = (!client.is_empty()).then_some(client);
    let shards = match Addressee::of(desk.seed, named) {
        Addressee::Nobody => 0..0,
        Addressee::User => 0..desk.shards,
        Addressee::Client(shard, conn) => {
            order.client = Some(conn);
            let shard = shard.0.min(desk.shards);
            shard..(shard + 1).min(desk.shards)
        }
    };
    for shard in shards {
        let sent = desk.outlets.deliver(NodeId(shard), &Delivery::Order(order));
        sent.expect("room was checked above");
    }
    desk.confirm(request, AckLevel::Accepted);
    Verdict::Taken
}

fn check(frame: &Frame<'_>) -> Result<(), (ErrorCode, &'static str)> {
    let Frame::Order {
        user,
        kind,
        client,
        channel,
        code,
        text,
        info_content,
        info,
        content,
        data,
        ..
    } = *frame
    else {
        return Ok(());
    };
    let invalid = |why| Err((ErrorCode::InvalidPayload, why));
    if user.is_empty() && client.is_empty() {
        return invalid("a user or a client expected");
    }
    if user.len() > USER_NAME_MAX || client.len() > USER_NAME_MAX {
        return Err((ErrorCode::TooLarge, "user or client is above 255 bytes"));
    }
    let takes_channel = matches!(kind, OrderKind::Subscribe | OrderKind::Unsubscribe);
    if !takes_channel && !channel.is_empty() {
        return invalid("only subscribe and unsubscribe have a channel");
    }
    let needs_channel = kind == OrderKind::Subscribe;
    if channel.len() > ROOM_NAME_MAX || needs_channel && channel.is_empty() {
        return Err((
            ErrorCode::ForbiddenRoom,
            "a channel of 1 to 255 bytes expected",
        ));
    }
    if kind == OrderKind::Disconnect && !(3_000..=4_999).contains(&code) {
        return invalid("a close has a code from 3000 to 4999");
    }
    if kind == OrderKind::Disconnect && !is_close_reason(text) {
        return invalid("a close has a text of 1 to 123 bytes that is not JSON");
    }
    if kind != OrderKind::Disconnect && text.len() > ROOM_NAME_MAX {
        return Err((ErrorCode::TooLarge, "text is above 255 bytes"));
    }
    if info.len() > INFO_BYTES_MAX || data.len() > MESSAGE_BYTES_MAX {
        return Err((
            ErrorCode::TooLarge,
            "info is above 2 KiB or data above 64 KiB",
        ));
    }
    let is_valid = |content, bytes: &[u8]| bytes.is_empty() || payload_is_valid(content, bytes);
    if !is_valid(info_content, info) || !is_valid(content, data) {
        return invalid("info or data is not what its content says");
    }
    if kind == OrderKind::Message && data.is_empty() {
        return invalid("a message has data");
    }
    Ok(())
}

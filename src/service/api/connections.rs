//! Methods that give orders to the connections of a user.

use super::call::Call;
use super::data;
use super::error::{Answer, ApiError, nothing};
use super::fields::Fields;
use crate::base::{Content, OrderKind, client_id};
use crate::limits;
use crate::mesh::Order;
use crate::service::hooks::is_close_reason;
use crate::service::orders::Addressee;
use crate::wire::client::ErrorCode;

/// Close code of a `disconnect` that names none: the client stays away.
const DISCONNECT_CODE: u64 = 3503;
/// Its reason.
const DISCONNECT_REASON: &str = "force disconnect";
/// Bytes of a close reason (RFC 6455 section 5.5, less the code).
const REASON_BYTES_MAX: usize = limits::CONTROL_PAYLOAD_MAX - 2;

/// An order that says nothing yet.
const ORDER: Order<'static> = Order {
    kind: OrderKind::Disconnect,
    user: "",
    client: None,
    room: "",
    code: 0,
    text: "",
    expire_at_s: 0,
    since: None,
    overrides: 0,
    info_content: Content::Json,
    info: b"",
    content: Content::Json,
    data: b"",
};

pub(super) async fn subscribe(call: &Call<'_>, fields: &Fields<'_>) -> Answer {
    let (user, to) = addressee(call, fields)?;
    let channel = fields.text("channel")?.unwrap_or_default();
    call.channel(&channel)?;
    let info = data::blob(fields, "info", "b64info", limits::INFO_BYTES_MAX)?;
    let data = data::blob(fields, "data", "b64data", limits::MESSAGE_BYTES_MAX)?;
    let order = Order {
        kind: OrderKind::Subscribe,
        user: &user,
        room: &channel,
        expire_at_s: fields.unsigned("expire_at")?,
        since: fields.position("recover_since")?,
        overrides: fields.overrides()?.bits(),
        info_content: info.content,
        info: &info.bytes,
        content: data.content,
        data: &data.bytes,
        ..ORDER
    };
    call.order(to, &order).await?;
    nothing()
}

pub(super) async fn unsubscribe(call: &Call<'_>, fields: &Fields<'_>) -> Answer {
    let (user, to) = addressee(call, fields)?;
    let channel = fields.text("channel")?.unwrap_or_default();
    call.channel(&channel)?;
    let order = Order {
        kind: OrderKind::Unsubscribe,
        user: &user,
        room: &channel,
        ..ORDER
    };
    call.order(to, &order).await?;
    nothing()
}

pub(super) async fn disconnect(call: &Call<'_>, fields: &Fields<'_>) -> Answer {
    let (user, to) = addressee(call, fields)?;
    let (code, reason) = match fields.object("disconnect")? {
        Some(close) => close_of(&close)?,
        None => (DISCONNECT_CODE, DISCONNECT_REASON.to_owned()),
    };
    // Ids of other processes are of nobody here, so nobody has to be spared for them.
    let spared: Vec<String> = fields
        .texts("whitelist", limits::API_SPARED_MAX)?
        .into_iter()
        .filter(|client| client_id::decode(call.seed(), client).is_some())
        .collect();
    let order = Order {
        kind: OrderKind::Disconnect,
        user: &user,
        room: &spared.join("\n"),
        code: code as u32,
        text: &reason,
        ..ORDER
    };
    call.order(to, &order).await?;
    nothing()
}

pub(super) async fn refresh(call: &Call<'_>, fields: &Fields<'_>) -> Answer {
    let (user, to) = addressee(call, fields)?;
    let info = data::blob(fields, "info", "b64info", limits::INFO_BYTES_MAX)?;
    let kind = if fields.flag("expired")? {
        OrderKind::Expire
    } else {
        OrderKind::Refresh
    };
    let order = Order {
        kind,
        user: &user,
        expire_at_s: fields.unsigned("expire_at")?,
        info_content: info.content,
        info: &info.bytes,
        ..ORDER
    };
    call.order(to, &order).await?;
    nothing()
}

/// An extension: a message to the client's application, outside of channels.
pub(super) async fn message(call: &Call<'_>, fields: &Fields<'_>) -> Answer {
    let (user, to) = addressee(call, fields)?;
    let data = data::blob(fields, "data", "b64data", limits::MESSAGE_BYTES_MAX)?;
    if data.bytes.is_empty() {
        return Err(fields.refuse("data", "data or b64data expected"));
    }
    let order = Order {
        kind: OrderKind::Message,
        user: &user,
        content: data.content,
        data: &data.bytes,
        ..ORDER
    };
    call.order(to, &order).await?;
    nothing()
}

/// The user, possibly empty, and whom the request is for.
fn addressee(call: &Call<'_>, fields: &Fields<'_>) -> Result<(String, Addressee), ApiError> {
    let user = fields.short_text("user", limits::USER_NAME_MAX)?;
    let client = fields.text("client")?;
    if fields.is_set("session") {
        return Err(not_offered("session"));
    }
    if user.is_none() && client.is_none() {
        return Err(fields.refuse("user", "a user or a client expected"));
    }
    let to = Addressee::of(call.seed(), client.as_deref());
    Ok((user.unwrap_or_default(), to))
}

/// Code and reason that SDKs take for what they are: an empty reason, or one that is JSON, they do not.
fn close_of(close: &Fields<'_>) -> Result<(u64, String), ApiError> {
    let code = match close.value("code") {
        Some(_) => close.unsigned("code")?,
        None => DISCONNECT_CODE,
    };
    if !(3_000..=4_999).contains(&code) {
        return Err(close.refuse("code", "3000 to 4999 expected"));
    }
    let reason = match close.value("reason") {
        Some(_) => close.text("reason")?.unwrap_or_default(),
        None => DISCONNECT_REASON.to_owned(),
    };
    if !is_close_reason(&reason) {
        let expected = format!("1 to {REASON_BYTES_MAX} bytes that are no JSON expected");
        return Err(close.refuse("reason", &expected));
    }
    Ok((code, reason))
}

fn not_offered(name: &str) -> ApiError {
    ApiError::new(ErrorCode::NotAvailable, format!("{name} is not offered"))
}

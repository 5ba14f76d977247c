//! Who may do what in which channel. Nothing is allowed that no option grants.

use super::core::Core;
use crate::access::{DataFormat, Grant, NamespaceIndex, Privacy, is_listed};
use crate::base::Content;
use crate::limits::ROOM_NAME_MAX;
use crate::wire::client::{Encoding, ErrorCode};
use crate::wire::payload::{json_payload_is_object, json_payload_is_valid};

impl Core {
    /// The namespace of a channel that a client names.
    pub(super) fn namespace_of(&self, channel: &str) -> Result<NamespaceIndex, ErrorCode> {
        // Names that begin with a zero byte are the shards' own.
        if channel.len() > ROOM_NAME_MAX || channel.starts_with('\0') {
            return Err(ErrorCode::BadRequest);
        }
        let found = self.settings.namespaces.find(channel);
        found.ok_or(ErrorCode::UnknownChannel)
    }

    /// As [`Core::namespace_of`], of a channel that a client names.
    pub(super) fn namespace_for_client(&self, channel: &str) -> Result<NamespaceIndex, ErrorCode> {
        let namespace = self.namespace_of(channel)?;
        if !self.settings.namespaces.is_name(namespace, channel) {
            return Err(ErrorCode::BadRequest);
        }
        Ok(namespace)
    }

    /// Whether a client may subscribe without token and without a service's leave.
    pub(super) fn may_subscribe(&self, slot: u32, channel: &str, grant: Grant) -> bool {
        let user = self.user(slot);
        self.settings.clients.insecure
            || Privacy::of(channel) == Privacy::Open && grant.allows(user.is_empty(), false)
    }

    /// Whether the users behind the `#` of a channel's name are the client's.
    pub(super) fn is_listed_user(&self, slot: u32, channel: &str) -> bool {
        match Privacy::of(channel) {
            Privacy::UserLimited(users) => is_listed(users, self.user(slot)),
            Privacy::Open | Privacy::Private => false,
        }
    }

    /// Whether a client may publish `data`; the channel's namespace.
    pub(super) fn may_publish(
        &self,
        slot: u32,
        channel: &str,
        data: &[u8],
    ) -> Result<NamespaceIndex, ErrorCode> {
        let namespace = self.namespace_for_client(channel)?;
        let options = self.settings.namespaces.options(namespace);
        if data.is_empty() {
            return Err(ErrorCode::BadRequest);
        }
        // A service decides where one is asked.
        if options.publish_hook || self.is_granted(slot, channel, options.allow_publish) {
            return Ok(namespace);
        }
        Err(ErrorCode::PermissionDenied)
    }

    /// Whether a client may ask for something of a channel that has it.
    pub(super) fn may_ask(
        &self,
        slot: u32,
        channel: &str,
        is_there: bool,
        grant: Grant,
    ) -> Result<(), ErrorCode> {
        if !is_there {
            return Err(ErrorCode::NotAvailable);
        }
        if !self.is_granted(slot, channel, grant) {
            return Err(ErrorCode::PermissionDenied);
        }
        Ok(())
    }

    /// Whether an option grants something to a client. Of a private or user-limited channel it does so
    /// only to its subscribers and users.
    pub(super) fn is_granted(&self, slot: u32, channel: &str, grant: Grant) -> bool {
        if self.settings.clients.insecure {
            return true;
        }
        let user = self.user(slot);
        let is_subscribed = self.is_subscribed(slot, channel);
        let is_open = match Privacy::of(channel) {
            Privacy::Open => true,
            Privacy::Private => is_subscribed,
            Privacy::UserLimited(users) => is_subscribed || is_listed(users, user),
        };
        is_open && grant.allows(user.is_empty(), is_subscribed)
    }

    fn is_subscribed(&self, slot: u32, channel: &str) -> bool {
        let sub = self.view_named(channel).and_then(|view| {
            let conn = self.conns.get(slot)?;
            conn.sub(view)
        });
        sub.is_some()
    }

    fn user(&self, slot: u32) -> &str {
        self.conns.get(slot).map_or("", |conn| conn.user())
    }
}

/// What a client's data is under a channel's format; `None` when it is not what the format wants. JSON
/// of JSON clients was checked when it was read.
pub(super) fn client_data(encoding: Encoding, format: DataFormat, data: &[u8]) -> Option<Content> {
    let is_json = || encoding == Encoding::Json || json_payload_is_valid(data);
    match format {
        DataFormat::Any if is_json() => Some(Content::Json),
        DataFormat::Any | DataFormat::Binary => Some(Content::Bytes),
        DataFormat::Json => is_json().then_some(Content::Json),
        DataFormat::JsonObject => {
            (is_json() && json_payload_is_object(data)).then_some(Content::Json)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_what_the_format_wants_or_refused() {
        let (json, protobuf) = (Encoding::Json, Encoding::Protobuf);
        for (encoding, format, data, content) in [
            (json, DataFormat::Any, &b"1"[..], Some(Content::Json)),
            (protobuf, DataFormat::Any, b"1", Some(Content::Json)),
            (protobuf, DataFormat::Any, b"\xff", Some(Content::Bytes)),
            (protobuf, DataFormat::Json, b"\xff", None),
            (json, DataFormat::JsonObject, b" {}", Some(Content::Json)),
            (json, DataFormat::JsonObject, b"[{}]", None),
            (protobuf, DataFormat::Binary, b"1", Some(Content::Bytes)),
        ] {
            assert_eq!(client_data(encoding, format, data), content, "{data:?}");
        }
    }
}

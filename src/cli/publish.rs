//! `ringcast pub`.

use super::{Credentials, fail};
use crate::base::Content;
use crate::client::{Message, Upstream};
use crate::wire::payload::json_payload_is_valid;
use crate::wire::upstream::AckLevel;
use std::net::SocketAddr;
use std::process::ExitCode;

/// Flags of `ringcast pub`.
#[derive(Debug, clap::Args)]
pub(super) struct PubFlags {
    /// The room
    room: String,
    /// The payload: a JSON document, or plain text which is then sent as text
    data: String,
    /// The broker's upstream address
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8001")]
    upstream: SocketAddr,
    #[command(flatten)]
    credentials: Credentials,
}

pub(super) fn run(flags: &PubFlags) -> ExitCode {
    let secret = match flags
        .credentials
        .secret_file
        .as_ref()
        .map(std::fs::read_to_string)
        .transpose()
    {
        Ok(secret) => secret,
        Err(error) => return fail(format!("--secret-file: {error}")),
    };
    let key_id = flags.credentials.key_id.as_deref();
    let key = key_id.zip(secret.as_ref().map(|secret| secret.trim().as_bytes()));
    let mut upstream = match Upstream::connect(flags.upstream, "ringcast-pub", key) {
        Ok(upstream) => upstream,
        Err(error) => return fail(format!("upstream {}: {error}", flags.upstream)),
    };
    let payload = flags.data.as_bytes();
    let content = if json_payload_is_valid(payload) {
        Content::Json
    } else {
        Content::Text
    };
    match upstream.publish(
        &flags.room,
        &Message::new(content, payload, AckLevel::Sequenced),
    ) {
        Ok(receipt) => {
            println!(
                "room {} epoch {} offset {}",
                flags.room, receipt.epoch.0, receipt.offset.0
            );
            ExitCode::SUCCESS
        }
        Err(error) => fail(error),
    }
}

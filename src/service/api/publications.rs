//! `publish` and `broadcast`.

use super::call::Call;
use super::data::{self, Blob};
use super::error::{Answer, ApiError};
use super::fields::Fields;
use crate::base::{Version, client_id};
use crate::limits;
use crate::mesh::{Member, Publish, Request};
use crate::service::tasks::{Outcome, Ticket};
use serde_json::json;
use sha2::{Digest, Sha256};

/// What is published, whatever the channels.
struct Publication<'a> {
    data: Blob<'a>,
    tags: Vec<u8>,
    key: Option<[u8; 16]>,
    exclude: Option<Member>,
    skip_history: bool,
    delta: bool,
    version: Option<Version>,
}

/// A publication on its way to a home.
struct Queued<'a> {
    ticket: Ticket<'a>,
    has_history: bool,
}

pub(super) async fn publish(call: &Call<'_>, fields: &Fields<'_>) -> Answer {
    let channel = fields.text("channel")?.unwrap_or_default();
    let publication = Publication::read(call, fields)?;
    let queued = publication.queue(call, &channel).await?;
    queued.outcome(call).await
}

pub(super) async fn broadcast(call: &Call<'_>, fields: &Fields<'_>) -> Answer {
    let channels = fields.texts("channels", limits::API_CHANNELS_MAX)?;
    if channels.is_empty() {
        return Err(fields.refuse("channels", "at least one channel expected"));
    }
    let publication = Publication::read(call, fields)?;
    // All are on their way before the first is waited for.
    let mut queued = Vec::with_capacity(channels.len());
    for channel in &channels {
        queued.push(publication.queue(call, channel).await);
    }
    let mut out = br#"{"responses":["#.to_vec();
    for (index, queued) in queued.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let answer = match queued {
            Ok(queued) => queued.outcome(call).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(result) => {
                out.extend_from_slice(br#"{"result":"#);
                out.extend_from_slice(&result);
                out.push(b'}');
            }
            Err(error) => error.write(&mut out),
        }
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

impl<'a> Publication<'a> {
    fn read(call: &Call<'_>, fields: &Fields<'a>) -> Result<Self, ApiError> {
        let data = data::payload(fields)?;
        if data.bytes.is_empty() {
            return Err(fields.refuse("data", "a document expected, or b64data"));
        }
        let exclude = fields.text("exclude_client")?;
        // A client that is not here is sent nothing anyway.
        let exclude = exclude.and_then(|client| client_id::decode(call.seed(), &client));
        Ok(Self {
            data,
            tags: data::tags(fields)?,
            key: fields.text("idempotency_key")?.map(|key| key_digest(&key)),
            exclude: exclude.map(|(node, conn)| Member { node, conn }),
            skip_history: fields.flag("skip_history")?,
            delta: fields.flag("delta")?,
            version: Version::new(
                fields.unsigned("version")?,
                &fields
                    .short_text("version_epoch", limits::VERSION_EPOCH_MAX)?
                    .unwrap_or_default(),
            ),
        })
    }

    /// Sends it to the home of `channel`, once the lane has room.
    async fn queue<'c>(&self, call: &Call<'c>, channel: &str) -> Result<Queued<'c>, ApiError> {
        let has_history = call.channel(channel)?.history;
        let ticket = call.ask(1)?;
        let request = Request::Publish(Publish {
            room: channel,
            payload: &self.data.bytes,
            content: self.data.content,
            skip_history: self.skip_history,
            delta: self.delta,
            key: self.key,
            info: b"",
            tags: &self.tags,
            exclude: self.exclude,
            version: self.version,
            reply: ticket.reply(),
        });
        call.request(channel, &request).await?;
        Ok(Queued {
            ticket,
            has_history,
        })
    }
}

impl Queued<'_> {
    /// Its place, when the channel keeps a history.
    async fn outcome(self, call: &Call<'_>) -> Answer {
        match self.ticket.outcome(call.deadline).await? {
            Outcome::Published { epoch, offset } if self.has_history && offset.0 > 0 => {
                let result = json!({"offset": offset.0, "epoch": epoch.text().as_str()});
                Ok(result.to_string().into_bytes())
            }
            Outcome::Published { .. } => super::error::nothing(),
            other => Err(call.unexpected(&other)),
        }
    }
}

/// Keys of any length, in the 16 bytes that homes remember.
fn key_digest(key: &str) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
    let (key, _) = digest.split_first_chunk().expect("32 bytes begin with 16");
    *key
}

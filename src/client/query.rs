//! Questions to the broker, and its answers as owned values.

use super::ClientError;
use crate::base::{Content, Epoch, Offset};
use crate::limits::{ROOM_NAME_MAX, UPSTREAM_NAME_MAX};
use crate::wire::client::{ClientInfo, Data, Publication, flat};
use crate::wire::upstream::{Query, QueryResult, take_channel};

/// Which past publications are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryQuery<'a> {
    /// Publications at most: 0 for the position only, negative for as many as the broker gives.
    pub limit: i32,
    /// Newest first.
    pub reverse: bool,
    /// Excluded itself: later publications, or earlier ones with `reverse`. The epoch is in the form that
    /// clients have it ([`Epoch::text`]); empty for any.
    pub since: Option<(&'a str, Offset)>,
}

/// Past publications of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryPage {
    /// The position asked from is of this history; else there are no publications.
    pub found: bool,
    /// Incarnation of the history.
    pub epoch: Epoch,
    /// Offset of the newest publication.
    pub top: Offset,
    /// In the order asked for.
    pub publications: Vec<Published>,
}

/// A publication of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its position.
    pub offset: Offset,
    /// What `data` is.
    pub content: Content,
    /// The payload.
    pub data: Vec<u8>,
    /// Who published it, when it was a client.
    pub publisher: Option<PresentClient>,
    /// Its tags.
    pub tags: Vec<(String, String)>,
}

/// A client of the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresentClient {
    /// The user; empty for an anonymous one.
    pub user: String,
    /// Public id of the connection.
    pub client: String,
    /// What is said of the connection.
    pub conn_info: (Content, Vec<u8>),
    /// What is said of the subscription.
    pub chan_info: (Content, Vec<u8>),
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    History(HistoryPage),
    /// `None` when they are too many.
    Presence(Option<Vec<PresentClient>>),
    PresenceStats {
        clients: u32,
        users: u32,
    },
    Done,
    /// `None` when they are too many.
    Channels(Option<Vec<(String, u32)>>),
}

impl Told {
    pub(super) fn of(result: QueryResult<'_>) -> Self {
        match result {
            QueryResult::History {
                found,
                epoch,
                top,
                publications,
            } => Self::History(HistoryPage {
                found,
                epoch,
                top,
                publications: flat::publications(publications)
                    .map(Published::from)
                    .collect(),
            }),
            QueryResult::Presence { complete, clients } => {
                let clients = flat::infos(clients).map(PresentClient::from).collect();
                Self::Presence(complete.then_some(clients))
            }
            QueryResult::PresenceStats { clients, users } => Self::PresenceStats { clients, users },
            QueryResult::Done => Self::Done,
            QueryResult::Channels {
                complete,
                mut channels,
            } => {
                let next = || {
                    let (name, subscribers) = take_channel(&mut channels)?;
                    Some((name.to_owned(), subscribers))
                };
                let list = std::iter::from_fn(next).collect();
                Self::Channels(complete.then_some(list))
            }
        }
    }
}

impl HistoryQuery<'_> {
    pub(super) fn query(&self) -> Result<Query<'_>, ClientError> {
        let is_long = |(epoch, _): &(&str, Offset)| epoch.len() > UPSTREAM_NAME_MAX;
        if self.since.as_ref().is_some_and(is_long) {
            return Err(ClientError::BadName);
        }
        Ok(Query::History {
            limit: self.limit,
            reverse: self.reverse,
            since: self.since,
        })
    }
}

/// That `name` may be the name of a question.
pub(super) fn check_name(name: &str, query: Query<'_>) -> Result<(), ClientError> {
    let is_missing = name.is_empty() && query != Query::Channels;
    if is_missing || name.len() > ROOM_NAME_MAX {
        return Err(ClientError::BadRoom);
    }
    Ok(())
}

impl From<Publication<'_>> for Published {
    fn from(publication: Publication<'_>) -> Self {
        let (content, data) = owned(publication.data);
        let tags = publication.tags.iter();
        Self {
            offset: Offset(publication.offset),
            content,
            data,
            publisher: publication.info.map(PresentClient::from),
            tags: tags
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        }
    }
}

impl From<ClientInfo<'_>> for PresentClient {
    fn from(info: ClientInfo<'_>) -> Self {
        Self {
            user: info.user.to_owned(),
            client: info.client.to_owned(),
            conn_info: owned(info.conn_info),
            chan_info: owned(info.chan_info),
        }
    }
}

fn owned(data: Data<'_>) -> (Content, Vec<u8>) {
    (data.content, data.bytes.to_vec())
}

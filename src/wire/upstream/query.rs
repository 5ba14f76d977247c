//! Questions of services to rooms, and RESULT, which answers them.

use super::Kind;
use super::body::{Fault, malformed, unsupported};
use crate::base::{Epoch, Offset};
use crate::limits::UPSTREAM_NAME_MAX;
use crate::wire::client::flat;

const REVERSE: u8 = 0b01;
const SINCE: u8 = 0b10;

/// What is asked; the room, or the pattern of [`Query::Channels`], is the name of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query<'a> {
    /// Past publications.
    History {
        /// Publications at most: 0 for the position only, negative for as many as the broker gives.
        limit: i32,
        /// Newest first.
        reverse: bool,
        /// Excluded itself, epoch (as clients have it, empty for any) and offset: later publications, or
        /// earlier ones with `reverse`.
        since: Option<(&'a str, Offset)>,
    },
    /// Who is present.
    Presence,
    /// How many are present.
    PresenceStats,
    /// Drop the history; the position stays.
    ForgetHistory,
    /// Which channels have subscribers.
    Channels,
}

/// The answer to a [`Query`]. Lists are in the flat form of [`crate::wire::client::flat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryResult<'a> {
    /// To [`Query::History`].
    History {
        /// The position asked from is of this history; without one, true. Else there are no publications.
        found: bool,
        /// Incarnation of the history.
        epoch: Epoch,
        /// Offset of the newest publication.
        top: Offset,
        /// Flat publications, in the order asked for.
        publications: &'a [u8],
    },
    /// To [`Query::Presence`].
    Presence {
        /// False when they are too many for one answer; then there are none.
        complete: bool,
        /// Flat infos of the clients.
        clients: &'a [u8],
    },
    /// To [`Query::PresenceStats`].
    PresenceStats {
        /// Connections.
        clients: u32,
        /// Distinct users.
        users: u32,
    },
    /// To [`Query::ForgetHistory`].
    Done,
    /// To [`Query::Channels`].
    Channels {
        /// False when they are too many for one answer; then there are none.
        complete: bool,
        /// (name length u16, name, subscribers u32)*.
        channels: &'a [u8],
    },
}

impl<'a> Query<'a> {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::History { .. } => Kind::History,
            Self::Presence => Kind::Presence,
            Self::PresenceStats => Kind::PresenceStats,
            Self::ForgetHistory => Kind::ForgetHistory,
            Self::Channels => Kind::Channels,
        }
    }

    /// Appends the body. Panics when the epoch is above [`UPSTREAM_NAME_MAX`] bytes.
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        let Self::History {
            limit,
            reverse,
            since,
        } = self
        else {
            return;
        };
        out.extend_from_slice(&limit.to_le_bytes());
        let has_since = since.is_some();
        out.push(if reverse { REVERSE } else { 0 } | if has_since { SINCE } else { 0 });
        if let Some((epoch, offset)) = since {
            assert!(epoch.len() <= UPSTREAM_NAME_MAX, "epoch");
            out.push(epoch.len() as u8);
            out.extend_from_slice(epoch.as_bytes());
            out.extend_from_slice(&offset.0.to_le_bytes());
        }
    }

    /// Reads the body of a frame of one of the [`Query::kind`]s.
    pub(super) fn read(kind: Kind, body: &'a [u8]) -> Result<Self, Fault> {
        let query = match kind {
            Kind::Presence => Self::Presence,
            Kind::PresenceStats => Self::PresenceStats,
            Kind::ForgetHistory => Self::ForgetHistory,
            Kind::Channels => Self::Channels,
            _ => return history(body),
        };
        if !body.is_empty() {
            return Err(malformed("frame type takes no body"));
        }
        Ok(query)
    }
}

fn history(body: &[u8]) -> Result<Query<'_>, Fault> {
    let cut = malformed("HISTORY is too short");
    let (limit, rest) = body.split_first_chunk::<4>().ok_or(cut)?;
    let (flags, mut rest) = rest.split_first().ok_or(cut)?;
    if flags & !(REVERSE | SINCE) != 0 {
        return Err(unsupported("flag of HISTORY is not known"));
    }
    let mut since = None;
    if flags & SINCE != 0 {
        let (length, after) = rest.split_first().ok_or(cut)?;
        let (epoch, after) = after.split_at_checked(usize::from(*length)).ok_or(cut)?;
        let (offset, after) = after.split_first_chunk::<8>().ok_or(cut)?;
        let epoch = std::str::from_utf8(epoch).map_err(|_| malformed("not UTF-8"))?;
        since = Some((epoch, Offset(u64::from_le_bytes(*offset))));
        rest = after;
    }
    if !rest.is_empty() {
        return Err(malformed("HISTORY is too long"));
    }
    Ok(Query::History {
        limit: i32::from_le_bytes(*limit),
        reverse: flags & REVERSE != 0,
        since,
    })
}

impl<'a> QueryResult<'a> {
    /// Bytes of the body before a list.
    pub const HEAD_BYTES: usize = 16;

    /// Appends the body.
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        let mut head = |kind: u8, is_whole: bool| {
            out.extend_from_slice(&[kind, u8::from(is_whole), 0, 0]);
        };
        match self {
            Self::History {
                found,
                epoch,
                top,
                publications,
            } => {
                head(0, found);
                out.extend_from_slice(&epoch.0.to_le_bytes());
                out.extend_from_slice(&top.0.to_le_bytes());
                out.extend_from_slice(publications);
            }
            Self::Presence { complete, clients } => {
                head(1, complete);
                out.extend_from_slice(clients);
            }
            Self::PresenceStats { clients, users } => {
                head(2, true);
                out.extend_from_slice(&clients.to_le_bytes());
                out.extend_from_slice(&users.to_le_bytes());
            }
            Self::Done => head(3, true),
            Self::Channels { complete, channels } => {
                head(4, complete);
                out.extend_from_slice(channels);
            }
        }
    }

    /// Reads the body.
    pub(super) fn read(body: &'a [u8]) -> Result<Self, Fault> {
        let cut = malformed("RESULT is too short");
        let (&[kind, is_whole, z0, z1], rest) = body.split_first_chunk().ok_or(cut)?;
        if [z0, z1] != [0, 0] {
            return Err(unsupported("reserved bytes are not 0"));
        }
        let is_whole = match is_whole {
            0 => false,
            1 => true,
            _ => return Err(malformed("whole is neither 0 nor 1")),
        };
        let result = match kind {
            0 => {
                let (epoch, rest) = rest.split_first_chunk().ok_or(cut)?;
                let (top, publications) = rest.split_first_chunk().ok_or(cut)?;
                check_list(publications, |rest| flat::take_publication(rest).is_some())?;
                Self::History {
                    found: is_whole,
                    epoch: Epoch(u32::from_le_bytes(*epoch)),
                    top: Offset(u64::from_le_bytes(*top)),
                    publications,
                }
            }
            1 => {
                check_list(rest, |rest| flat::take_info(rest).is_some())?;
                Self::Presence {
                    complete: is_whole,
                    clients: rest,
                }
            }
            2 => {
                let Ok(&[c0, c1, c2, c3, u0, u1, u2, u3]) = <&[u8; 8]>::try_from(rest) else {
                    return Err(malformed("RESULT of PRESENCE_STATS is not of 12 bytes"));
                };
                Self::PresenceStats {
                    clients: u32::from_le_bytes([c0, c1, c2, c3]),
                    users: u32::from_le_bytes([u0, u1, u2, u3]),
                }
            }
            3 if rest.is_empty() => Self::Done,
            3 => return Err(malformed("RESULT is too long")),
            4 => {
                check_list(rest, |rest| take_channel(rest).is_some())?;
                Self::Channels {
                    complete: is_whole,
                    channels: rest,
                }
            }
            _ => return Err(unsupported("kind of result is not known")),
        };
        match (kind, is_whole) {
            (2 | 3, false) => Err(malformed("a result without a list is whole")),
            _ => Ok(result),
        }
    }
}

/// Takes a channel and how many subscribers it has from the front of a list; `None` at its end.
pub fn take_channel<'a>(channels: &mut &'a [u8]) -> Option<(&'a str, u32)> {
    let (name, rest) = super::names::split(channels)?;
    let (subscribers, rest) = rest.split_first_chunk()?;
    *channels = rest;
    let name = std::str::from_utf8(name).ok()?;
    Some((name, u32::from_le_bytes(*subscribers)))
}

/// That `take` takes everything.
fn check_list(list: &[u8], take: impl Fn(&mut &[u8]) -> bool) -> Result<(), Fault> {
    let mut rest = list;
    while !rest.is_empty() {
        if !take(&mut rest) {
            return Err(malformed("a list of RESULT is cut off"));
        }
    }
    Ok(())
}

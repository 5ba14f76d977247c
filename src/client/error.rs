//! What can go wrong between a service and the broker.

use crate::wire::upstream::{DecodeError, ErrorCode};
use std::fmt;
use std::io;

/// The broker's ERROR frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What went wrong.
    pub code: ErrorCode,
    /// For people.
    pub text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.code.label())
    }
}

/// Why a call failed. After [`ClientError::Refused`], [`ClientError::BadRoom`],
/// [`ClientError::BadRoomCount`], [`ClientError::BadTags`], [`ClientError::TooMany`] and
/// [`ClientError::TooLarge`] the connection can still be used, unless
/// the refusal's code closes it; after the others it is of no more use, except that answers may still be
/// collected after [`ClientError::GoingAway`].
#[derive(Debug)]
pub enum ClientError {
    /// The operating system refused something.
    Io(io::Error),
    /// The broker did not answer, grant credit or read for too long.
    Timeout,
    /// The broker closed the connection.
    Closed,
    /// The broker sent bytes that are no frame.
    BadFrame(DecodeError),
    /// The broker sent a frame that has no place here.
    UnexpectedFrame,
    /// The broker refused the request or the connection.
    Refused(Refusal),
    /// The broker is going down and takes nothing new from this connection.
    GoingAway {
        /// Milliseconds that it gave, from its announcement.
        grace_ms: u32,
    },
    /// A service name or key id that is empty or too long.
    BadName,
    /// A room name that is empty or too long.
    BadRoom,
    /// No rooms, or too many for one broadcast.
    BadRoomCount,
    /// Tags that are too long or have a key twice, or an excluded client's id or a version epoch that is
    /// too long.
    BadTags,
    /// The broker has more to say than one answer holds.
    TooMany,
    /// The frame would exceed what the broker takes.
    TooLarge {
        /// Bytes of the frame.
        frame_bytes: usize,
        /// Bytes that the broker takes.
        frame_bytes_max: usize,
    },
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "upstream connection: {error}"),
            Self::Timeout => f.write_str("the broker did not answer in time"),
            Self::Closed => f.write_str("the broker closed the connection"),
            Self::BadFrame(error) => write!(f, "the broker sent a bad frame: {error}"),
            Self::UnexpectedFrame => f.write_str("the broker sent a frame out of place"),
            Self::Refused(refusal) => write!(f, "the broker refused: {refusal}"),
            Self::GoingAway { grace_ms } => write!(f, "the broker goes down in {grace_ms} ms"),
            Self::BadName => f.write_str("service name or key id is empty or above 255 bytes"),
            Self::BadRoom => f.write_str("room name is empty or above 255 bytes"),
            Self::BadTags => f.write_str(
                "tags are above 2048 bytes or have a key twice, or client id or version epoch is too long",
            ),
            Self::TooMany => f.write_str("more than one answer holds"),
            Self::BadRoomCount => f.write_str("a broadcast takes 1 to 1024 rooms"),
            Self::TooLarge {
                frame_bytes,
                frame_bytes_max,
            } => write!(
                f,
                "frame of {frame_bytes} bytes, the broker takes {frame_bytes_max}"
            ),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::BadFrame(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        if would_block(&error) {
            Self::Timeout
        } else {
            Self::Io(error)
        }
    }
}

/// Whether a socket's timeout passed, or it had nothing in non-blocking mode. Not the death of a
/// connection, which is another kind.
pub(super) fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

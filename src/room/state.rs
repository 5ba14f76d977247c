//! Rooms as bytes of a state file, so that epochs, positions and histories outlive a restart. No I/O.
//!
//! Every shard writes its homes into a section of its own with [`push_home`]; [`file()`] puts a header
//! before the sections and a checksum behind them. [`read`] takes a file as a whole or not at all: a
//! history of which a part is wrong is worse than none, because its epoch promises that it is complete.
//!
//! ```text
//! file     magic 8 bytes, version u16, length of the file u64, epoch seed u64, incarnation u32,
//!          wall clock u64 (ms since 1970), home*, SHA-256 of all before it
//! home     name length u16, name, epoch u32, top u64, idle u64 (ms),
//!          version number u64 (0 for none), version epoch u64, publications u32, (age u64)*, bytes u64, flat publications, keys u32, key*
//! key      age u64, key 16 bytes, offset u64
//! ```
//!
//! All integers are little-endian; ages are milliseconds at the time of writing. Presence and
//! subscriptions are not kept: connections end with the process.

mod fuzz;
#[cfg(test)]
mod tests;

pub use fuzz::fuzz_state;

use super::home::Home;
use super::recent::Key;
use crate::base::{Epoch, Offset, Version};
use crate::limits::{OFFSET_MAX, ROOM_NAME_MAX};
use crate::wire::client::Publication;
use crate::wire::client::flat;
use sha2::{Digest, Sha256};
use std::fmt;

const MAGIC: [u8; 8] = *b"RINGCAST";
const VERSION: u16 = 2;
const HEADER_BYTES: usize = 38;
const CHECKSUM_BYTES: usize = 32;
const KEY_BYTES: usize = 32;
/// Milliseconds beyond which an age is none; about 285,000 years.
const AGE_MS_MAX: u64 = 1 << 53;

/// What a state file says of the process that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Epochs of rooms that nobody has published to follow from it.
    pub epoch_seed: u64,
    /// Counts the times that positions were forgotten under this seed.
    pub incarnation: u32,
    /// When it was written, in milliseconds since 1970.
    pub wall_ms: u64,
}

/// Appends a home to a section of the file. One that nobody has published to is left out.
pub fn push_home(section: &mut Vec<u8>, home: &Home, now_ms: u64) {
    let history = home.history();
    let keys = home
        .recent()
        .map_or(0, |recent| recent.iter(now_ms).count());
    if home.top() == Offset(0) && keys == 0 && home.version().is_none() {
        return;
    }
    section.extend((home.room().len() as u16).to_le_bytes());
    section.extend(home.room().as_bytes());
    section.extend(home.epoch().0.to_le_bytes());
    section.extend(home.top().0.to_le_bytes());
    section.extend(home.idle_ms(now_ms).to_le_bytes());
    let version = home.version();
    let (number, epoch) = version.map_or((0, 0), |version| (version.number, version.epoch));
    section.extend(number.to_le_bytes());
    section.extend(epoch.to_le_bytes());

    section.extend((history.len() as u32).to_le_bytes());
    let ages = history.ages_ms(now_ms);
    section.extend(ages.flat_map(u64::to_le_bytes));
    section.extend((history.bytes() as u64).to_le_bytes());
    section.extend_from_slice(history.flat(0..history.len()));

    section.extend((keys as u32).to_le_bytes());
    for (age_ms, key, offset) in home.recent().iter().flat_map(|recent| recent.iter(now_ms)) {
        section.extend(age_ms.to_le_bytes());
        section.extend(key);
        section.extend(offset.0.to_le_bytes());
    }
}

/// The pieces of a state file, in the order in which they are to be written: the sections are not
/// copied.
pub fn file(header: &Header, sections: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let homes: usize = sections.iter().map(Vec::len).sum();
    let length = (HEADER_BYTES + homes + CHECKSUM_BYTES) as u64;
    let mut front = Vec::with_capacity(HEADER_BYTES);
    front.extend(MAGIC);
    front.extend(VERSION.to_le_bytes());
    front.extend(length.to_le_bytes());
    front.extend(header.epoch_seed.to_le_bytes());
    front.extend(header.incarnation.to_le_bytes());
    front.extend(header.wall_ms.to_le_bytes());

    let mut pieces = vec![front];
    pieces.extend(sections);
    let mut checksum = Sha256::new();
    pieces.iter().for_each(|piece| checksum.update(piece));
    pieces.push(checksum.finalize().to_vec());
    pieces
}

/// What a state file says.
#[derive(Debug)]
pub struct Saved<'a> {
    /// Of the process that wrote it.
    pub header: Header,
    /// Its homes.
    pub homes: Vec<SavedHome<'a>>,
}

/// A home in a state file; [`Home::restore`] makes one of it.
#[derive(Clone, Copy, Debug)]
pub struct SavedHome<'a> {
    /// Name of the room.
    pub room: &'a str,
    /// Incarnation of the room.
    pub epoch: Epoch,
    /// Offset of the newest publication.
    pub top: Offset,
    /// Milliseconds since its last use.
    pub idle_ms: u64,
    /// The newest version that a publication had.
    pub version: Option<Version>,
    ages: &'a [u8],
    publications: &'a [u8],
    keys: &'a [u8],
}

impl<'a> SavedHome<'a> {
    /// The publications with their ages in milliseconds, oldest first.
    pub fn publications(&self) -> impl Iterator<Item = (u64, Publication<'a>)> {
        let (ages, _) = self.ages.as_chunks::<8>();
        let ages = ages.iter().map(|age| u64::from_le_bytes(*age));
        ages.zip(flat::publications(self.publications))
    }

    /// The idempotency keys with their ages in milliseconds and the offsets of their publications,
    /// oldest first.
    pub fn keys(&self) -> impl Iterator<Item = (u64, Key, Offset)> {
        let mut rest = self.keys;
        std::iter::from_fn(move || {
            let age_ms = take_u64(&mut rest)?;
            Some((
                age_ms,
                *take_array(&mut rest)?,
                Offset(take_u64(&mut rest)?),
            ))
        })
    }
}

/// Why a file is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateError {
    /// It does not begin like one.
    NotAStateFile,
    /// It has a version that this program does not read.
    Version(u16),
    /// It was not written to its end, or something follows its end.
    Torn {
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// It was changed after it was written.
    Checksum,
    /// Its checksum is right and its content is not: a fault of the program that wrote it.
    Malformed,
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAStateFile => f.write_str("this is not a state file of ringcast"),
            Self::Version(version) => write!(
                f,
                "the state file has version {version}, this program reads version {VERSION}"
            ),
            Self::Torn { expected, found } => write!(
                f,
                "the state file is torn: it has {found} bytes and should have {expected}"
            ),
            Self::Checksum => {
                f.write_str("the state file is damaged: its checksum does not match its content")
            }
            Self::Malformed => {
                f.write_str("the state file is malformed, although its checksum matches")
            }
        }
    }
}

impl std::error::Error for StateError {}

/// Reads a whole file and checks all of it.
pub fn read(bytes: &[u8]) -> Result<Saved<'_>, StateError> {
    let (header, mut rest) = read_header(bytes)?;
    let mut homes = Vec::new();
    let mut scratch = Vec::new();
    while !rest.is_empty() {
        let home = take_home(&mut rest, &mut scratch).ok_or(StateError::Malformed)?;
        homes.push(home);
    }
    Ok(Saved { header, homes })
}

/// The header and the bytes of the homes.
fn read_header(bytes: &[u8]) -> Result<(Header, &[u8]), StateError> {
    if !bytes.starts_with(&MAGIC) && !MAGIC.starts_with(bytes) {
        return Err(StateError::NotAStateFile);
    }
    let found = bytes.len() as u64;
    let torn = |expected| StateError::Torn { expected, found };
    let shortest = (HEADER_BYTES + CHECKSUM_BYTES) as u64;
    let mut rest = bytes.get(MAGIC.len()..).ok_or(torn(shortest))?;
    let version = take_array(&mut rest).ok_or(torn(shortest))?;
    let version = u16::from_le_bytes(*version);
    if version != VERSION {
        return Err(StateError::Version(version));
    }
    let expected = take_u64(&mut rest).ok_or(torn(shortest))?;
    if expected != found || found < shortest {
        return Err(torn(expected.max(shortest)));
    }
    let (content, checksum) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
    if Sha256::digest(content)[..] != *checksum {
        return Err(StateError::Checksum);
    }
    rest = &rest[..rest.len() - CHECKSUM_BYTES];
    let header = take_header(&mut rest).ok_or(StateError::Malformed)?;
    Ok((header, rest))
}

fn take_header(bytes: &mut &[u8]) -> Option<Header> {
    Some(Header {
        epoch_seed: take_u64(bytes)?,
        incarnation: take_u32(bytes)?,
        wall_ms: take_u64(bytes)?,
    })
}

fn take_home<'a>(bytes: &mut &'a [u8], scratch: &mut Vec<u8>) -> Option<SavedHome<'a>> {
    let name = usize::from(u16::from_le_bytes(*take_array(bytes)?));
    let room = std::str::from_utf8(take_slice(bytes, name)?).ok()?;
    let epoch = Epoch(take_u32(bytes)?);
    let top = Offset(take_u64(bytes)?);
    let idle_ms = take_u64(bytes)?;
    let (number, version_epoch) = (take_u64(bytes)?, take_u64(bytes)?);
    if number == 0 && version_epoch != 0 {
        return None;
    }
    let version = (number > 0).then_some(Version {
        epoch: version_epoch,
        number,
    });
    let count = take_u32(bytes)? as usize;
    let ages = take_slice(bytes, count.checked_mul(8)?)?;
    let length = usize::try_from(take_u64(bytes)?).ok()?;
    let publications = take_slice(bytes, length)?;
    let keys = take_u32(bytes)? as usize;
    let keys = take_slice(bytes, keys.checked_mul(KEY_BYTES)?)?;
    let home = SavedHome {
        room,
        epoch,
        top,
        idle_ms,
        version,
        ages,
        publications,
        keys,
    };
    let named = (1..=ROOM_NAME_MAX).contains(&room.len()) && top.0 <= OFFSET_MAX;
    let aged = idle_ms <= AGE_MS_MAX
        && home.publications().all(|(age_ms, _)| age_ms <= AGE_MS_MAX)
        && home
            .keys()
            .all(|(age_ms, _, offset)| age_ms <= AGE_MS_MAX && offset <= top);
    (named && aged && history_is_sound(&home, count, scratch)).then_some(home)
}

/// Whether the publications are as many as their ages, end with the newest without a gap, and are flat
/// exactly as this program writes them.
fn history_is_sound(home: &SavedHome<'_>, count: usize, scratch: &mut Vec<u8>) -> bool {
    let Some(before) = home.top.0.checked_sub(count as u64) else {
        return false;
    };
    let mut rest = home.publications;
    for offset in before + 1..=home.top.0 {
        let taken = rest;
        let Some(publication) = flat::take_publication(&mut rest) else {
            return false;
        };
        scratch.clear();
        flat::push_publication(scratch, &publication);
        let same = scratch[..] == taken[..taken.len() - rest.len()];
        if publication.offset != offset || !same {
            return false;
        }
    }
    rest.is_empty()
}

fn take_slice<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn take_array<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(taken)
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    take_array(bytes).map(|taken| u32::from_le_bytes(*taken))
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    take_array(bytes).map(|taken| u64::from_le_bytes(*taken))
}

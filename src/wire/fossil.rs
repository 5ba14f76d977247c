//! Fossil deltas: a payload as what changed since the one before.
//!
//! ```text
//! patch    target_length "\n" (copy | literal)* checksum ";"
//! copy     count "@" offset ","      count bytes of the base from offset on
//! literal  count ":" bytes           count bytes that follow
//! ```
//!
//! Integers are written to base 64 with the digits `0-9 A-Z _ a-z ~`, most significant first. The
//! checksum is the sum of the target as big-endian 32-bit words, padded with zeros.
//!
//! JSON clients get the patch as a string, so a patch of text has to be text. A character is therefore
//! never cut in two, although `ä` and `ö` begin with the same byte: see `Patch::copy`.

use std::fmt;

/// Bytes of the blocks by which equal parts are found.
const BLOCK_BYTES: usize = 16;
/// Blocks with the same hash that are compared. Repetitive payloads have many of them, and looking at
/// all would take time that grows with the square of the length.
const CANDIDATES_MAX: usize = 32;
/// Bytes that a literal may cost besides its own; a copy that saves no more is not worth it.
const LITERAL_OVERHEAD: usize = 3;

const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// Memory that [`delta`] uses again: once it has seen the longest base, it allocates nothing.
#[derive(Debug, Default)]
pub struct Scratch {
    /// First block of each hash, plus one; 0 is none. A power of two of them, at least two.
    heads: Vec<u32>,
    /// For each block the next one with the same hash, plus one.
    nexts: Vec<u32>,
}

/// Appends a patch that turns `base` into `target`; it may be longer than `target`. When `target` is
/// UTF-8, so is the patch.
pub fn delta(base: &[u8], target: &[u8], out: &mut Vec<u8>, scratch: &mut Scratch) {
    put_integer(out, target.len());
    out.push(b'\n');
    let mut patch = Patch {
        base,
        target,
        out,
        written: 0,
        text: simdutf8::basic::from_utf8(target).is_ok(),
    };
    patch.copy(Part {
        offset: 0,
        at: 0,
        length: common_prefix(base, target),
    });
    if base.len() >= BLOCK_BYTES && target.len() - patch.written >= BLOCK_BYTES {
        copy_blocks(&mut patch, scratch);
    }
    let length = common_suffix(base, &target[patch.written..]);
    patch.copy(Part {
        offset: base.len() - length,
        at: target.len() - length,
        length,
    });
    patch.literal(target.len());
    put_integer(out, checksum(target) as usize);
    out.push(b';');
}

/// Copies the parts of the target that have a whole block in common with the base.
fn copy_blocks(patch: &mut Patch<'_>, scratch: &mut Scratch) {
    scratch.index(patch.base);
    let mut at = patch.written;
    while let Some(block) = block(patch.target, at) {
        let part = scratch.longest(patch, block, at);
        if part.is_some_and(|part| patch.copy(part)) {
            at = patch.written;
        } else {
            at += 1;
        }
    }
}

/// Equal bytes of base and target.
#[derive(Clone, Copy)]
struct Part {
    /// Where they are in the base.
    offset: usize,
    /// Where they are in the target.
    at: usize,
    length: usize,
}

/// A patch as far as it has been written.
struct Patch<'a> {
    base: &'a [u8],
    target: &'a [u8],
    out: &'a mut Vec<u8>,
    /// Bytes of the target that the patch makes so far.
    written: usize,
    /// The target is text, and so is the patch to be.
    text: bool,
}

impl Patch<'_> {
    /// Writes what is before `part` as a literal and `part` as a copy, unless that would save nothing.
    ///
    /// In text, the part is narrowed to whole characters of the target, and thus of the base too: its
    /// ends are where literals end and begin.
    fn copy(&mut self, mut part: Part) -> bool {
        if self.text {
            while part.length > 0 && is_continuation(self.target, part.at) {
                part.offset += 1;
                part.at += 1;
                part.length -= 1;
            }
            while part.length > 0 && is_continuation(self.target, part.at + part.length) {
                part.length -= 1;
            }
        }
        let copy_bytes = digits(part.length) + digits(part.offset) + 2;
        if part.length <= copy_bytes + LITERAL_OVERHEAD {
            return false;
        }
        self.literal(part.at);
        put_integer(self.out, part.length);
        self.out.push(b'@');
        put_integer(self.out, part.offset);
        self.out.push(b',');
        self.written += part.length;
        true
    }

    /// Writes the target up to `end` as a literal.
    fn literal(&mut self, end: usize) {
        let bytes = &self.target[self.written..end];
        if !bytes.is_empty() {
            put_integer(self.out, bytes.len());
            self.out.push(b':');
            self.out.extend_from_slice(bytes);
            self.written = end;
        }
    }
}

impl Scratch {
    /// Puts the blocks of `base`, which has one at least, behind their hashes; earlier ones come first.
    fn index(&mut self, base: &[u8]) {
        let blocks = base.len() / BLOCK_BYTES;
        self.heads.clear();
        self.heads.resize(blocks.next_power_of_two().max(2), 0);
        self.nexts.clear();
        self.nexts.resize(blocks, 0);
        for index in (0..blocks).rev() {
            if let Some(block) = block(base, index * BLOCK_BYTES) {
                let head = self.head(block);
                self.nexts[index] = self.heads[head];
                self.heads[head] = u32::try_from(index + 1).unwrap_or(0);
            }
        }
    }

    /// The longest part that holds `block`, which is at `at` in the target.
    fn longest(&self, patch: &Patch<'_>, block: &[u8; BLOCK_BYTES], at: usize) -> Option<Part> {
        let (base, target) = (patch.base, patch.target);
        let mut longest: Option<Part> = None;
        let mut next = self.heads[self.head(block)];
        for _ in 0..CANDIDATES_MAX {
            let Some(index) = next.checked_sub(1) else {
                break;
            };
            let offset = index as usize * BLOCK_BYTES;
            next = self.nexts[index as usize];
            if !base[offset..].starts_with(block) {
                continue;
            }
            let before = common_suffix(&base[..offset], &target[patch.written..at]);
            let length = before + common_prefix(&base[offset..], &target[at..]);
            if longest.is_none_or(|part| part.length < length) {
                longest = Some(Part {
                    offset: offset - before,
                    at: at - before,
                    length,
                });
            }
        }
        longest
    }

    /// Index of the head for `block`.
    fn head(&self, block: &[u8; BLOCK_BYTES]) -> usize {
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let bits = u128::from_le_bytes(*block);
        let (low, high) = (bits as u64, (bits >> 64) as u64);
        let hash = (low.wrapping_mul(FACTOR).rotate_left(32) ^ high).wrapping_mul(FACTOR);
        // The upper bits depend on all bits of the block.
        (hash >> 32) as usize & (self.heads.len() - 1)
    }
}

fn block(bytes: &[u8], at: usize) -> Option<&[u8; BLOCK_BYTES]> {
    bytes.get(at..)?.first_chunk()
}

/// Whether the byte at `at`, if there is one, continues a character.
fn is_continuation(text: &[u8], at: usize) -> bool {
    text.get(at).is_some_and(|byte| byte & 0xc0 == 0x80)
}

fn common_prefix(left: &[u8], right: &[u8]) -> usize {
    // Blocks first: comparing byte by byte would be most of the work.
    let mut length = 0;
    while let (Some(left), Some(right)) = (block(left, length), block(right, length))
        && left == right
    {
        length += BLOCK_BYTES;
    }
    let pairs = left[length..].iter().zip(&right[length..]);
    length + pairs.take_while(|(left, right)| left == right).count()
}

fn common_suffix(left: &[u8], right: &[u8]) -> usize {
    let pairs = left.iter().rev().zip(right.iter().rev());
    pairs.take_while(|(left, right)| left == right).count()
}

fn checksum(target: &[u8]) -> u32 {
    let (words, last) = target.as_chunks::<4>();
    let mut padded = [0; 4];
    padded[..last.len()].copy_from_slice(last);
    words
        .iter()
        .map(|word| u32::from_be_bytes(*word))
        .fold(u32::from_be_bytes(padded), u32::wrapping_add)
}

/// Digits of an integer to base 64.
fn digits(number: usize) -> usize {
    (number.checked_ilog2().unwrap_or(0) / 6 + 1) as usize
}

fn put_integer(out: &mut Vec<u8>, number: usize) {
    for digit in (0..digits(number)).rev() {
        out.push(DIGITS[number >> (6 * digit) & 63]);
    }
}

/// Why a patch does not turn a base into anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadDelta {
    /// Not the format.
    Syntax,
    /// A copy of bytes that the base does not have.
    OutOfBase,
    /// The parts are longer or shorter than the target is said to be.
    Length,
    /// The target is not the one that the patch was made for.
    Checksum,
}

impl fmt::Display for BadDelta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "not a delta",
            Self::OutOfBase => "copies what the base does not have",
            Self::Length => "makes a target of another length",
            Self::Checksum => "made for another base",
        })
    }
}

impl std::error::Error for BadDelta {}

/// Appends what `patch` makes of `base`. After an error `out` is as it was.
pub fn apply(base: &[u8], patch: &[u8], out: &mut Vec<u8>) -> Result<(), BadDelta> {
    let start = out.len();
    let applied = apply_parts(base, patch, out, start);
    if applied.is_err() {
        out.truncate(start);
    }
    applied
}

fn apply_parts(
    base: &[u8],
    mut patch: &[u8],
    out: &mut Vec<u8>,
    start: usize,
) -> Result<(), BadDelta> {
    let (length, b'\n') = take_integer(&mut patch)? else {
        return Err(BadDelta::Syntax);
    };
    loop {
        let (count, kind) = take_integer(&mut patch)?;
        let bytes = match kind {
            b';' => {
                return finish(&out[start..], length, count, patch);
            }
            b':' => {
                let (literal, rest) = patch.split_at_checked(count).ok_or(BadDelta::Syntax)?;
                patch = rest;
                literal
            }
            b'@' => {
                let (offset, b',') = take_integer(&mut patch)? else {
                    return Err(BadDelta::Syntax);
                };
                let from = base.get(offset..).ok_or(BadDelta::OutOfBase)?;
                from.get(..count).ok_or(BadDelta::OutOfBase)?
            }
            _ => return Err(BadDelta::Syntax),
        };
        if bytes.len() > length - (out.len() - start) {
            return Err(BadDelta::Length);
        }
        out.extend_from_slice(bytes);
    }
}

fn finish(target: &[u8], length: usize, sum: usize, rest: &[u8]) -> Result<(), BadDelta> {
    if !rest.is_empty() {
        return Err(BadDelta::Syntax);
    }
    if target.len() != length {
        return Err(BadDelta::Length);
    }
    if checksum(target) as usize != sum {
        return Err(BadDelta::Checksum);
    }
    Ok(())
}

/// Takes an integer, which is below 2^36, and the byte behind it.
fn take_integer(patch: &mut &[u8]) -> Result<(usize, u8), BadDelta> {
    let mut number = 0;
    for (taken, byte) in patch.iter().enumerate() {
        match DIGITS.iter().position(|digit| digit == byte) {
            Some(value) if taken < 6 => number = number << 6 | value,
            None if taken > 0 => {
                *patch = &patch[taken + 1..];
                return Ok((number, *byte));
            }
            _ => break,
        }
    }
    Err(BadDelta::Syntax)
}

/// Makes and applies patches of `bytes` and panics when one does not give the target or is not text
/// between texts, or when bytes that are no patch do more than fail.
pub fn fuzz_fossil(bytes: &[u8]) {
    // The first byte says where the target begins.
    let Some((cut, rest)) = bytes.split_first() else {
        return;
    };
    let (base, target) = rest.split_at(rest.len() * usize::from(*cut) / 256);
    let mut scratch = Scratch::default();
    let mut made = Vec::new();
    for (base, target) in [(base, target), (target, base), (base, base)] {
        let mut patch = Vec::new();
        delta(base, target, &mut patch, &mut scratch);
        made.clear();
        assert_eq!(apply(base, &patch, &mut made), Ok(()), "a patch applies");
        assert_eq!(made, target, "a patch makes its target");
        if std::str::from_utf8(target).is_ok() {
            assert!(std::str::from_utf8(&patch).is_ok(), "text stays text");
        }
    }
    made.clear();
    if apply(base, target, &mut made).is_err() {
        assert!(made.is_empty(), "a failure leaves nothing");
    }
}

#[cfg(test)]
mod tests;

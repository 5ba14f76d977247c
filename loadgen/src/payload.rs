//! What a publication carries, so that its receiver can tell loss, order, damage and delay.
//!
//! A JSON string of an exact number of bytes, of fixed-width lower-case hexadecimal fields and
//! padding. Nothing in it needs an escape, so it crosses a JSON broker unchanged, and it is read
//! without a parser and without allocation:
//!
//! ```text
//!  0   1    3     7      13       21          29        45          53        61        n-1
//!  +---+----+-----+------+--------+-----------+---------+-----------+---------+---------+---+
//!  | " | rc | run | room | number | publisher | due, ns | delay, µs | check   | padding | " |
//!  +---+----+-----+------+--------+-----------+---------+-----------+---------+---------+---+
//! ```

/// Bytes of the smallest payload.
pub(crate) const PAYLOAD_BYTES_MIN: usize = 64;

/// Bytes of the largest.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 512 * 1024;

const RUN: usize = 3;
const ROOM: usize = 7;
const NUMBER: usize = 13;
const PUBLISHER: usize = 21;
const DUE: usize = 29;
const DELAY: usize = 45;
const CHECK: usize = 53;
const PADDING: usize = 61;
const _: () = assert!(
    PADDING < PAYLOAD_BYTES_MIN,
    "all fields and the last quote fit"
);

/// Rooms that the room field can name.
pub(crate) const ROOMS_MAX: u32 = 1 << 24;

const HEX: [u8; 16] = *b"0123456789abcdef";

/// The fields of a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Which run of which publisher: publications of others are not ours to count.
    pub(crate) run: u16,
    /// Number of the room, below [`ROOMS_MAX`].
    pub(crate) room: u32,
    /// Position among the publisher's publications to the room, from 1 without gaps.
    pub(crate) number: u32,
    /// Which publisher of the room, from 0.
    pub(crate) publisher: u32,
    /// When it should have been sent: nanoseconds of CLOCK_MONOTONIC.
    pub(crate) due_ns: u64,
    /// How much later than that it was handed to the socket, in microseconds.
    pub(crate) delay_us: u32,
}

/// Why a payload is not what a publisher made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damaged;

/// Makes payloads of one length.
#[derive(Debug)]
pub(crate) struct Maker {
    bytes: Vec<u8>,
    /// The alphabet over and over; padding starts at a letter that depends on the publication.
    letters: Vec<u8>,
}

impl Maker {
    /// A maker of payloads of `payload_bytes`, at least [`PAYLOAD_BYTES_MIN`].
    pub(crate) fn new(payload_bytes: usize) -> Self {
        assert!(
            payload_bytes >= PAYLOAD_BYTES_MIN,
            "checked with the options"
        );
        let mut bytes = vec![b'"'; payload_bytes];
        bytes[1..RUN].copy_from_slice(b"rc");
        Self {
            bytes,
            letters: (b'a'..=b'z').cycle().take(payload_bytes + 26).collect(),
        }
    }

    /// The payload with these fields, valid until the next call.
    pub(crate) fn make(&mut self, stamp: &Stamp) -> &[u8] {
        let end = self.bytes.len() - 1;
        write_hex(&mut self.bytes[RUN..ROOM], u64::from(stamp.run));
        write_hex(&mut self.bytes[ROOM..NUMBER], u64::from(stamp.room));
        write_hex(&mut self.bytes[NUMBER..PUBLISHER], u64::from(stamp.number));
        write_hex(&mut self.bytes[PUBLISHER..DUE], u64::from(stamp.publisher));
        write_hex(&mut self.bytes[DUE..DELAY], stamp.due_ns);
        write_hex(&mut self.bytes[DELAY..CHECK], u64::from(stamp.delay_us));
        let first = (stamp.number % 26) as usize;
        self.bytes[PADDING..end].copy_from_slice(&self.letters[first..][..end - PADDING]);
        let check = checksum(&self.bytes);
        write_hex(&mut self.bytes[CHECK..PADDING], u64::from(check));
        &self.bytes
    }
}

/// Reads and checks a payload of any length.
pub(crate) fn read(payload: &[u8]) -> Result<Stamp, Damaged> {
    let is_framed = payload.len() >= PAYLOAD_BYTES_MIN
        && payload.starts_with(b"\"rc")
        && payload.ends_with(b"\"");
    if !is_framed || read_hex(&payload[CHECK..PADDING])? != u64::from(checksum(payload)) {
        return Err(Damaged);
    }
    Ok(Stamp {
        run: read_hex(&payload[RUN..ROOM])? as u16,
        room: read_hex(&payload[ROOM..NUMBER])? as u32,
        number: read_hex(&payload[NUMBER..PUBLISHER])? as u32,
        publisher: read_hex(&payload[PUBLISHER..DUE])? as u32,
        due_ns: read_hex(&payload[DUE..DELAY])?,
        delay_us: read_hex(&payload[DELAY..CHECK])? as u32,
    })
}

/// Covers every byte but the field it is written to. Each step is a bijection of the word it takes
/// in, so a change within one word always changes the 64-bit state.
fn checksum(payload: &[u8]) -> u32 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = payload.len() as u64;
    for part in [&payload[..CHECK], &payload[PADDING..]] {
        let (words, rest) = part.as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        for word in words.iter().chain([&last]) {
            state = (state ^ u64::from_le_bytes(*word)).wrapping_mul(ODD);
            state ^= state >> 29;
        }
    }
    (state ^ state >> 32) as u32
}

fn write_hex(field: &mut [u8], value: u64) {
    let mut rest = value;
    for digit in field.iter_mut().rev() {
        *digit = HEX[(rest & 15) as usize];
        rest >>= 4;
    }
    debug_assert_eq!(rest, 0, "the field is too narrow");
}

fn read_hex(field: &[u8]) -> Result<u64, Damaged> {
    let mut value = 0;
    for digit in field {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return Err(Damaged),
        };
        value = value << 4 | u64::from(digit);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        run: 0xbeef,
        room: 4_999,
        number: 20,
        publisher: 99_999,
        due_ns: u64::MAX - 7,
        delay_us: 1_234,
    };

    #[test]
    fn a_payload_has_its_exact_length_and_reads_back() {
        for payload_bytes in [PAYLOAD_BYTES_MIN, 65, 128, 1_000, 65_000] {
            let mut maker = Maker::new(payload_bytes);
            let payload = maker.make(&STAMP);
            assert_eq!(payload.len(), payload_bytes);
            assert_eq!(read(payload), Ok(STAMP));
        }
    }

    #[test]
    fn a_payload_is_a_json_string_without_escapes() {
        let mut maker = Maker::new(128);
        let payload = maker.make(&STAMP);
        let text: String = serde_json::from_slice(payload).unwrap();
        assert_eq!(text.len(), 126);
    }

    #[test]
    fn a_change_of_any_byte_is_seen() {
        let mut maker = Maker::new(128);
        let sound = maker.make(&STAMP).to_vec();
        for index in 0..sound.len() {
            for change in [0x01, 0x02, 0x20, 0x80] {
                let mut damaged = sound.clone();
                damaged[index] ^= change;
                assert_eq!(read(&damaged), Err(Damaged), "byte {index}");
            }
        }
    }

    #[test]
    fn a_payload_that_was_cut_or_padded_is_seen() {
        let mut maker = Maker::new(128);
        let mut payload = maker.make(&STAMP).to_vec();
        payload.remove(100);
        assert_eq!(read(&payload), Err(Damaged));
        assert_eq!(read(&payload[..40]), Err(Damaged));
        assert_eq!(read(b""), Err(Damaged));
    }
}

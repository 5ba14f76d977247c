//! WebSocket frame headers (RFC 6455 section 5.2) and the frames that this side writes.
//!
//! ```text
//!  byte 0           byte 1          extended length   masking key    payload
//! +-+-+-+-+-------+-+-------------+-----------------+--------------+---------
//! |F|R|R|R|opcode |M| length      | 126: 2 bytes    | 4 bytes      |
//! |I|S|S|S|4 bits |A| 7 bits      | 127: 8 bytes,   | if MASK      | ...
//! |N|V|V|V|       |S|             |      top bit 0  |              |
//! +-+-+-+-+-------+K+-------------+-----------------+--------------+---------
//! ```
//!
//! A header is judged in the order of its bytes and as soon as they are there, so the verdict does
//! not depend on how reads cut the stream. The declared length is compared with what the message
//! may still take before it is used for anything; nothing here allocates for it. No extension is
//! negotiated, so every reserved bit is an error.

use crate::base::reason::CloseReason;
use crate::limits::{CONTROL_PAYLOAD_MAX, SERVER_HEADER_MAX};
use crate::wire::mask;

/// Bytes of the longest header: two, a 64-bit length, a masking key.
pub const HEADER_BYTES_MAX: usize = 14;

const FIN: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const MASKED: u8 = 0x80;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// What a frame is (RFC 6455 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// Another fragment of the message that is open.
    Continuation = 0,
    /// A text message or its first fragment.
    Text = 1,
    /// A binary message or its first fragment.
    Binary = 2,
    /// Close handshake.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answer to a ping, or unsolicited.
    Pong = 10,
}

impl Opcode {
    /// The opcode of a header's low four bits.
    pub fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    /// Whether frames with this opcode may stand between fragments (RFC 6455 section 5.5).
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Which side we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// We accepted the connection: incoming frames must be masked.
    Server,
    /// We opened the connection: incoming frames must not be masked.
    Client,
}

/// Why incoming bytes end the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameError {
    /// The peer broke RFC 6455.
    Protocol(Violation),
    /// A text message or a close reason is not UTF-8.
    InvalidUtf8,
    /// A message has more bytes or more fragments than allowed.
    TooBig,
}

impl FrameError {
    /// The reason that closes the connection.
    pub fn reason(self) -> CloseReason {
        match self {
            Self::Protocol(_) => CloseReason::ProtocolError,
            Self::InvalidUtf8 => CloseReason::InvalidUtf8,
            Self::TooBig => CloseReason::MessageTooBig,
        }
    }
}

/// What of RFC 6455 was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// A reserved bit is set, though no extension was negotiated (section 5.2).
    ReservedBits,
    /// An opcode that is not defined (section 5.2).
    UnknownOpcode,
    /// A control frame without FIN (section 5.5).
    FragmentedControl,
    /// A control frame of more than [`CONTROL_PAYLOAD_MAX`] bytes (section 5.5).
    ControlTooLong,
    /// A continuation without a message that is open (section 5.4).
    UnexpectedContinuation,
    /// A new data message before the open one is finished (section 5.4).
    ExpectedContinuation,
    /// A frame from a client without a mask (section 5.1).
    Unmasked,
    /// A frame from a server with a mask (section 5.1).
    Masked,
    /// A length in more bytes than it needs (section 5.2).
    LengthNotMinimal,
    /// A 64-bit length with its top bit set (section 5.2).
    LengthTopBit,
    /// A close frame with a payload of one byte (section 5.5.1).
    CloseTooShort,
    /// A close code that must not be in a frame (section 7.4).
    CloseCode,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Whether the frame ends its message.
    pub fin: bool,
    /// What the frame is.
    pub opcode: Opcode,
    /// Masking key; present exactly when the peer is a client.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload, within the limit it was decoded with.
    pub payload_bytes: usize,
}

/// What a header is held against.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Our side.
    pub role: Role,
    /// Whether a fragmented message is open.
    pub in_message: bool,
    /// Payload bytes that a data frame may have.
    pub payload_max: usize,
}

/// Reads the header at the start of `input`: the header and its length in bytes, or `None` while
/// bytes are missing. An error is given as soon as the bytes that show it are there.
pub fn decode_header(
    input: &[u8],
    expected: &Expected,
) -> Result<Option<(FrameHeader, usize)>, FrameError> {
    let Some(&first) = input.first() else {
        return Ok(None);
    };
    let (fin, opcode) = decode_first(first, expected.in_message).map_err(FrameError::Protocol)?;
    let Some(&second) = input.get(1) else {
        return Ok(None);
    };
    match (expected.role, second & MASKED != 0) {
        (Role::Server, false) => return Err(FrameError::Protocol(Violation::Unmasked)),
        (Role::Client, true) => return Err(FrameError::Protocol(Violation::Masked)),
        (Role::Server, true) | (Role::Client, false) => {}
    }
    let length = second & !MASKED;
    if opcode.is_control() && usize::from(length) > CONTROL_PAYLOAD_MAX {
        return Err(FrameError::Protocol(Violation::ControlTooLong));
    }
    let (declared, length_end) = match decode_length(input, length)? {
        Some(decoded) => decoded,
        None => return Ok(None),
    };
    // A control frame has passed its own bound above and does not count towards the message.
    if !opcode.is_control() && declared > expected.payload_max as u64 {
        return Err(FrameError::TooBig);
    }
    let Ok(payload_bytes) = usize::try_from(declared) else {
        return Err(FrameError::TooBig);
    };
    let (mask, header_bytes) = match expected.role {
        Role::Client => (None, length_end),
        Role::Server => match input[length_end..].first_chunk::<4>() {
            Some(key) => (Some(*key), length_end + 4),
            None => return Ok(None),
        },
    };
    let header = FrameHeader {
        fin,
        opcode,
        mask,
        payload_bytes,
    };
    Ok(Some((header, header_bytes)))
}

/// FIN, reserved bits and opcode, and whether the frame may come now.
fn decode_first(first: u8, in_message: bool) -> Result<(bool, Opcode), Violation> {
    if first & RESERVED_BITS != 0 {
        return Err(Violation::ReservedBits);
    }
    let fin = first & FIN != 0;
    let opcode = Opcode::from_bits(first & 0x0f).ok_or(Violation::UnknownOpcode)?;
    match opcode {
        Opcode::Close | Opcode::Ping | Opcode::Pong if !fin => Err(Violation::FragmentedControl),
        Opcode::Continuation if !in_message => Err(Violation::UnexpectedContinuation),
        Opcode::Text | Opcode::Binary if in_message => Err(Violation::ExpectedContinuation),
        _ => Ok((fin, opcode)),
    }
}

/// The declared length and where it ends; `None` while bytes are missing.
fn decode_length(input: &[u8], length: u8) -> Result<Option<(u64, usize)>, FrameError> {
    let after = &input[2..];
    let (declared, end, shorter_max) = match length {
        LENGTH_16 => match after.first_chunk::<2>() {
            Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 4, 125),
            None => return Ok(None),
        },
        LENGTH_64 => match after.first_chunk::<8>() {
            Some(bytes) => (u64::from_be_bytes(*bytes), 10, u64::from(u16::MAX)),
            None => return Ok(None),
        },
        short => return Ok(Some((u64::from(short), 2))),
    };
    if declared >> 63 != 0 {
        return Err(FrameError::Protocol(Violation::LengthTopBit));
    }
    if declared <= shorter_max {
        return Err(FrameError::Protocol(Violation::LengthNotMinimal));
    }
    Ok(Some((declared, end)))
}

/// A whole unmasked header and how many of its bytes are used.
pub fn server_header(opcode: Opcode, payload_bytes: usize) -> ([u8; SERVER_HEADER_MAX], usize) {
    let mut header = [0; SERVER_HEADER_MAX];
    header[0] = FIN | opcode as u8;
    let used = if payload_bytes < usize::from(LENGTH_16) {
        header[1] = payload_bytes as u8;
        2
    } else if let Ok(length) = u16::try_from(payload_bytes) {
        header[1] = LENGTH_16;
        header[2..4].copy_from_slice(&length.to_be_bytes());
        4
    } else {
        header[1] = LENGTH_64;
        header[2..10].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
        10
    };
    (header, used)
}

/// Appends the header of an unfragmented frame from a server; `payload_bytes` must follow.
pub fn write_server_header(out: &mut Vec<u8>, opcode: Opcode, payload_bytes: usize) {
    let (header, used) = server_header(opcode, payload_bytes);
    out.extend_from_slice(&header[..used]);
}

/// Appends an unfragmented frame from a client, masked with `mask`.
pub fn write_client_frame(out: &mut Vec<u8>, opcode: Opcode, mask: [u8; 4], payload: &[u8]) {
    let (mut header, used) = server_header(opcode, payload.len());
    header[1] |= MASKED;
    out.extend_from_slice(&header[..used]);
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    mask::apply(&mut out[start..], mask, 0);
}

/// Appends a close frame from a server. A reason that does not fit is cut at a character.
pub fn write_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let reason = &reason[..reason.floor_char_boundary(CONTROL_PAYLOAD_MAX - 2)];
    write_server_header(out, Opcode::Close, 2 + reason.len());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Whether `code` may stand in a close frame (RFC 6455 section 7.4 and the IANA registry).
pub fn close_code_is_valid(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tungstenite::protocol::frame::coding::CloseCode;

    const SERVER: Expected = Expected {
        role: Role::Server,
        in_message: false,
        payload_max: 70_000,
    };
    const CLIENT: Expected = Expected {
        role: Role::Client,
        ..SERVER
    };

    fn violation(input: &[u8], expected: &Expected) -> Violation {
        match decode_header(input, expected) {
            Err(FrameError::Protocol(violation)) => violation,
            other => panic!("{input:x?} gave {other:?}"),
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written_at_every_length_form() {
        for payload_bytes in [0, 1, 125, 126, 127, 255, 256, 65_535, 65_536, 70_000] {
            let mut frame = Vec::new();
            write_server_header(&mut frame, Opcode::Binary, payload_bytes);
            let (header, used) = decode_header(&frame, &CLIENT).unwrap().unwrap();
            assert_eq!(used, frame.len());
            assert_eq!(header.payload_bytes, payload_bytes);
            assert_eq!(header.opcode, Opcode::Binary);
            assert!(header.fin && header.mask.is_none());
            for short in 0..frame.len() {
                assert_eq!(decode_header(&frame[..short], &CLIENT), Ok(None));
            }
        }
    }

    #[test]
    fn a_client_frame_carries_its_mask() {
        let mut frame = Vec::new();
        // The masked "Hello" of RFC 6455 section 5.7.
        write_client_frame(&mut frame, Opcode::Text, [0x37, 0xfa, 0x21, 0x3d], b"Hello");
        let rfc = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
        assert_eq!(frame, rfc);
        let (header, used) = decode_header(&frame, &SERVER).unwrap().unwrap();
        assert_eq!((used, header.mask), (6, Some([0x37, 0xfa, 0x21, 0x3d])));
    }

    #[test]
    fn a_bad_first_byte_is_refused_alone() {
        for bit in [0x40, 0x20, 0x10] {
            assert_eq!(violation(&[0x81 | bit], &SERVER), Violation::ReservedBits);
        }
        for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
            assert_eq!(
                violation(&[0x80 | opcode], &SERVER),
                Violation::UnknownOpcode
            );
        }
        for control in [8, 9, 10] {
            assert_eq!(violation(&[control], &SERVER), Violation::FragmentedControl);
        }
        assert_eq!(
            violation(&[0x80], &SERVER),
            Violation::UnexpectedContinuation
        );
        let open = Expected {
            in_message: true,
            ..SERVER
        };
        for data in [0x01, 0x02, 0x81, 0x82] {
            assert_eq!(violation(&[data], &open), Violation::ExpectedContinuation);
        }
    }

    #[test]
    fn the_mask_bit_must_fit_the_role() {
        assert_eq!(violation(&[0x81, 0x05], &SERVER), Violation::Unmasked);
        assert_eq!(violation(&[0x81, 0x85], &CLIENT), Violation::Masked);
    }

    #[test]
    fn a_control_frame_of_126_bytes_is_refused_by_its_second_byte() {
        assert_eq!(
            violation(&[0x89, 0x80 | 126], &SERVER),
            Violation::ControlTooLong
        );
        assert_eq!(
            violation(&[0x88, 0x80 | 127], &SERVER),
            Violation::ControlTooLong
        );
        assert_eq!(decode_header(&[0x8a, 0x80 | 125], &SERVER), Ok(None));
    }

    #[test]
    fn a_length_in_more_bytes_than_needed_is_refused() {
        assert_eq!(
            violation(b"\x82\xfe\x00\x7d", &SERVER),
            Violation::LengthNotMinimal
        );
        let long = b"\x82\xff\x00\x00\x00\x00\x00\x00\xff\xff";
        assert_eq!(violation(long, &SERVER), Violation::LengthNotMinimal);
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_mask_arrives() {
        let top = b"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00";
        assert_eq!(violation(top, &SERVER), Violation::LengthTopBit);
        let huge = b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff";
        assert_eq!(decode_header(huge, &SERVER), Err(FrameError::TooBig));
        let over = b"\x82\xff\x00\x00\x00\x00\x00\x01\x11\x71";
        assert_eq!(decode_header(over, &SERVER), Err(FrameError::TooBig));
        let fits = b"\x82\xff\x00\x00\x00\x00\x00\x01\x11\x70";
        assert_eq!(decode_header(fits, &SERVER), Ok(None));
    }

    #[test]
    fn a_control_frame_does_not_count_towards_the_message() {
        let full = Expected {
            in_message: true,
            payload_max: 0,
            ..SERVER
        };
        assert!(matches!(decode_header(b"\x89\x85mask", &full), Ok(Some(_))));
        assert_eq!(decode_header(b"\x80\x81", &full), Err(FrameError::TooBig));
    }

    #[test]
    fn a_close_reason_is_cut_at_a_character() {
        let mut frame = Vec::new();
        write_close(&mut frame, 1000, &"ä".repeat(100));
        assert_eq!(frame.len(), 2 + 2 + 122);
        assert_eq!(frame[..4], [0x88, 124, 0x03, 0xe8]);
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }

    #[test]
    fn close_codes_are_those_that_tungstenite_allows_and_1014() {
        for code in 0..=u16::MAX {
            // tungstenite does not know 1014 (bad gateway), registered later.
            let allowed = code == 1014 || (code != 0 && CloseCode::from(code).is_allowed());
            assert_eq!(close_code_is_valid(code), allowed, "{code}");
        }
    }

    #[test]
    fn every_error_has_its_close_code() {
        let code = |error: FrameError| error.reason().code();
        assert_eq!(code(FrameError::Protocol(Violation::Unmasked)), Some(1002));
        assert_eq!(code(FrameError::InvalidUtf8), Some(1007));
        assert_eq!(code(FrameError::TooBig), Some(1009));
    }
}

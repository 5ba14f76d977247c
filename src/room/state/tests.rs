//! What a state file promises.

use super::*;
use crate::base::Content;
use crate::room::history::HistoryLimits;
use crate::room::home::{HomeLimits, Incoming, Published, Read};
use crate::wire::client::{ClientInfo, Data, Tags};

const LIMITS: HomeLimits = HomeLimits {
    history: HistoryLimits {
        count: 4,
        age_ms: 1_000,
        bytes: 10_000,
    },
    keys: 8,
    keys_age_ms: 500,
    meta_ms: 5_000,
    read_max: 300,
    page_max: 300,
    read_bytes_max: 10_000,
};

const HEADER: Header = Header {
    epoch_seed: 0x0123_4567_89ab_cdef,
    incarnation: 3,
    wall_ms: 1_700_000_000_000,
};

fn publish(home: &mut Home, payload: &str, key: Option<u8>, now_ms: u64) -> Published {
    publish_version(home, payload, key, 0, now_ms)
}

fn publish_version(
    home: &mut Home,
    payload: &str,
    key: Option<u8>,
    version: u64,
    now_ms: u64,
) -> Published {
    let mut tags = Vec::new();
    flat::push_tag(&mut tags, "lang", "en");
    let incoming = Incoming {
        publication: Publication {
            data: Data {
                content: Content::Text,
                bytes: payload.as_bytes(),
            },
            info: payload.starts_with('i').then_some(ClientInfo {
                user: "42",
                client: "c",
                ..ClientInfo::default()
            }),
            tags: Tags::from_flat(&tags),
            ..Publication::default()
        },
        key: key.map(|byte| [byte; 16]),
        skip_history: false,
        version: Version::new(version, "db"),
    };
    home.publish(&incoming, now_ms, &LIMITS)
}

/// Two sections: of one room with six publications at 100, 200, … 600 and of one whose history is gone.
fn sections() -> Vec<Vec<u8>> {
    let mut news = Home::new("news", Epoch(7), 0);
    for n in 1..=6u8 {
        let payload = if n % 2 == 0 { "info" } else { "none" };
        let at_ms = 100 * u64::from(n);
        publish_version(&mut news, payload, Some(n), u64::from(n), at_ms);
    }
    let mut quiet = Home::new("quiet", Epoch(8), 0);
    publish(&mut quiet, "x", None, 0);
    quiet.forget_history();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    push_home(&mut first, &news, 700);
    push_home(&mut first, &Home::new("blank", Epoch(9), 0), 700);
    push_home(&mut second, &quiet, 700);
    vec![first, second]
}

fn small_file() -> Vec<u8> {
    file(&HEADER, sections()).concat()
}

fn all(home: &mut Home, now_ms: u64) -> Vec<u8> {
    let page = Read::Page {
        limit: u32::MAX,
        since: None,
        reverse: false,
    };
    let mut out = Vec::new();
    assert!(home.read(&page, now_ms, &LIMITS, &mut out));
    out
}

#[test]
fn what_is_read_is_what_was_written() {
    let bytes = small_file();
    let saved = read(&bytes).unwrap();
    assert_eq!(saved.header, HEADER);
    let rooms: Vec<_> = saved.homes.iter().map(|home| home.room).collect();
    assert_eq!(
        rooms,
        ["news", "quiet"],
        "a room without publications is not saved"
    );
    let news = &saved.homes[0];
    assert_eq!(
        (news.epoch, news.top, news.idle_ms),
        (Epoch(7), Offset(6), 100)
    );
    let published: Vec<_> = news.publications().collect();
    let offsets: Vec<_> = published.iter().map(|(age, p)| (*age, p.offset)).collect();
    assert_eq!(offsets, [(400, 3), (300, 4), (200, 5), (100, 6)]);
    assert_eq!(published[1].1.info.unwrap().user, "42");
    assert_eq!(published[2].1.data.bytes, b"none");
    let keys: Vec<_> = news.keys().collect();
    assert_eq!(keys.len(), 5, "the first was too old");
    assert_eq!(keys[4], (100, [6; 16], Offset(6)));
    assert_eq!(news.version, Version::new(6, "db"));
    let quiet = &saved.homes[1];
    assert_eq!((quiet.epoch, quiet.top), (Epoch(8), Offset(1)));
    assert_eq!((quiet.publications().count(), quiet.keys().count()), (0, 0));
}

#[test]
fn a_client_recovers_over_the_restart() {
    let bytes = small_file();
    let saved = read(&bytes).unwrap();
    let mut home = Home::restore(&saved.homes[0], 50, 0, &LIMITS);
    home.invariants(&LIMITS);
    let since = Read::Recover {
        epoch: Some(Epoch(7)),
        offset: Offset(4),
    };
    let mut out = Vec::new();
    assert!(home.read(&since, 0, &LIMITS, &mut out));
    let offsets: Vec<_> = flat::publications(&out)
        .map(|publication| publication.offset)
        .collect();
    assert_eq!(offsets, [5, 6]);
    assert_eq!(
        publish(&mut home, "x", Some(6), 0),
        Published::Duplicate(Offset(6))
    );
    assert_eq!(
        publish_version(&mut home, "x", None, 6, 0),
        Published::Outdated(Offset(6))
    );
    assert_eq!(
        publish(&mut home, "x", None, 0),
        Published::Sequenced(Offset(7))
    );
    let quiet = Home::restore(&saved.homes[1], 50, 0, &LIMITS);
    assert_eq!((quiet.epoch(), quiet.top()), (Epoch(8), Offset(1)));
}

#[test]
fn ages_go_on_over_the_restart() {
    let bytes = small_file();
    let saved = read(&bytes).unwrap();
    // Written at ages of 400, 300, 200 and 100 ms; 650 ms down; the new clock begins at 10.
    let restore = || Home::restore(&saved.homes[0], 650, 10, &LIMITS);
    let left = |now_ms| flat::publications(&all(&mut restore(), now_ms)).count();
    assert_eq!(left(10), 3, "the first was too old at once");
    assert_eq!(
        (left(59), left(60), left(160), left(259), left(260)),
        (3, 2, 1, 1, 0)
    );
    assert_eq!(
        publish(&mut restore(), "x", Some(6), 10),
        Published::Sequenced(Offset(7))
    );
    let mut home = Home::restore(&saved.homes[0], 4_000, 10, &LIMITS);
    assert_eq!((home.top(), home.idle_since_ms()), (Offset(6), 0));
    // Last used 4,100 ms before; a position is kept for 5,000.
    assert!(!home.expire(909, &LIMITS, 1) && home.expire(910, &LIMITS, 1));
}

#[test]
fn the_limits_of_the_day_are_kept_to() {
    let mut limits = LIMITS;
    limits.history.count = 2;
    limits.keys = 1;
    let bytes = small_file();
    let saved = read(&bytes).unwrap();
    let mut home = Home::restore(&saved.homes[0], 0, 0, &limits);
    home.invariants(&limits);
    assert_eq!(flat::publications(&all(&mut home, 0)).count(), 2);
    limits.history.count = 0;
    let home = Home::restore(&saved.homes[0], 0, 0, &limits);
    home.invariants(&limits);
    assert_eq!(home.top(), Offset(6));
}

#[test]
fn a_torn_file_is_refused_wherever_it_is_cut() {
    let bytes = small_file();
    let whole = bytes.len() as u64;
    for cut in 0..bytes.len() {
        let Err(StateError::Torn { expected, found }) = read(&bytes[..cut]) else {
            panic!("{cut}");
        };
        assert!(
            found == cut as u64 && (expected == whole || cut < 18),
            "{cut}"
        );
    }
    let longer = [&bytes[..], b"x"].concat();
    let torn = StateError::Torn {
        expected: whole,
        found: whole + 1,
    };
    assert_eq!(read(&longer).unwrap_err(), torn);
}

#[test]
fn a_file_with_one_bit_changed_is_refused_wherever_it_is() {
    let mut bytes = small_file();
    assert!(read(&bytes).is_ok());
    for index in 0..bytes.len() {
        for bit in 0..8 {
            bytes[index] ^= 1 << bit;
            let error = read(&bytes).expect_err("changed");
            let expected = match index {
                0..8 => error == StateError::NotAStateFile,
                8..10 => matches!(error, StateError::Version(_)),
                10..18 => matches!(error, StateError::Torn { .. }),
                _ => error == StateError::Checksum,
            };
            assert!(expected, "{index}: {error}");
            bytes[index] ^= 1 << bit;
        }
    }
}

#[test]
fn a_foreign_file_is_refused_in_plain_words() {
    for foreign in [&b"{\"a\":1}"[..], b"\x7fELF", &[0; 4_096]] {
        assert_eq!(read(foreign).unwrap_err(), StateError::NotAStateFile);
    }
    let mut newer = small_file();
    newer[8] = 9;
    for (error, words) in [
        (
            read(&[0]).unwrap_err(),
            "this is not a state file of ringcast",
        ),
        (
            read(&newer).unwrap_err(),
            "the state file has version 9, this program reads version 2",
        ),
        (
            read(&small_file()[..100]).unwrap_err(),
            "the state file is torn: it has 100 bytes and should have",
        ),
    ] {
        assert!(error.to_string().starts_with(words), "{error}");
    }
}

#[test]
fn homes_that_no_home_can_have_written_are_refused_whatever_the_checksum_says() {
    let good = sections()[0].clone();
    let malformed = |section: Vec<u8>| {
        let error = read(&file(&HEADER, vec![section]).concat()).err();
        error == Some(StateError::Malformed)
    };
    assert!(!malformed(good.clone()));
    // By the layout in the module documentation: name, top, idle time, version, count of the
    // publications, first age, their bytes, user of the second one's info, age and offset of the last key.
    let end = good.len();
    for (at, bytes) in [
        (2, &[0xff][..]),
        (10, &7u64.to_le_bytes()),
        (10, &5u64.to_le_bytes()),
        (10, &u64::MAX.to_le_bytes()),
        (18, &u64::MAX.to_le_bytes()),
        (26, &0u64.to_le_bytes()),
        (42, &3u32.to_le_bytes()),
        (42, &u32::MAX.to_le_bytes()),
        (46, &u64::MAX.to_le_bytes()),
        (78, &u64::MAX.to_le_bytes()),
        (142, &[0xff, 0xff]),
        (end - 32, &u64::MAX.to_le_bytes()),
        (end - 8, &7u64.to_le_bytes()),
    ] {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        assert!(malformed(changed), "{at}");
    }
    assert!(malformed(vec![0; 100]), "a room without a name");
    for cut in 1..good.len() {
        assert!(malformed(good[..cut].to_vec()), "{cut}");
    }
}

#[test]
fn a_fuzzer_finds_nothing_near_a_real_file() {
    let whole = small_file();
    for mut bytes in [whole, sections().concat()] {
        fuzz_state(&bytes);
        for index in 0..bytes.len() {
            fuzz_state(&bytes[..index]);
            for value in [
                0,
                1,
                0x7f,
                0x80,
                0xff,
                bytes[index] ^ 1,
                bytes[index].wrapping_add(1),
            ] {
                let before = std::mem::replace(&mut bytes[index], value);
                fuzz_state(&bytes);
                bytes[index] = before;
            }
        }
    }
}

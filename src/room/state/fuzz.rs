//! What a fuzzer checks of state files, callable from a plain test as well.

use super::super::history::HistoryLimits;
use super::{Header, file, push_home, read};
use crate::room::home::{Home, HomeLimits};

/// Bounds that nothing in a file exceeds.
const LIMITS: HomeLimits = HomeLimits {
    history: HistoryLimits {
        count: usize::MAX,
        age_ms: u64::MAX,
        bytes: usize::MAX,
    },
    keys: usize::MAX,
    keys_age_ms: u64::MAX,
    meta_ms: u64::MAX,
    read_max: usize::MAX,
    page_max: usize::MAX,
    read_bytes_max: usize::MAX,
};

/// Reads `bytes` as a file, and as the homes of a file whose header and checksum are right, which no
/// fuzzer would find by itself. Panics when a home that was taken from it breaks an invariant or is
/// written differently from how it was read.
pub fn fuzz_state(bytes: &[u8]) {
    check(bytes);
    let header = Header {
        epoch_seed: 1,
        incarnation: 2,
        wall_ms: 3,
    };
    check(&file(&header, vec![bytes.to_vec()]).concat());
}

fn check(bytes: &[u8]) {
    let Ok(saved) = read(bytes) else {
        return;
    };
    for home in &saved.homes {
        let restored = Home::restore(home, 0, 0, &LIMITS);
        restored.invariants(&LIMITS);
        let mut section = Vec::new();
        push_home(&mut section, &restored, 0);
        let again = file(&saved.header, vec![section]).concat();
        let again = read(&again).expect("what was written can be read");
        assert_eq!(again.header, saved.header);
        let Some(copy) = again.homes.first() else {
            assert!(home.top.0 == 0 && home.keys().count() == 0);
            continue;
        };
        assert_eq!(
            (copy.room, copy.epoch, copy.top, copy.idle_ms),
            (home.room, home.epoch, home.top, home.idle_ms)
        );
        assert!(copy.publications().eq(home.publications()));
        assert!(copy.keys().count() <= home.keys().count());
    }
}

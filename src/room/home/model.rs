//! A home against a naive model of it: the same operations, the same answers.

use super::*;
use crate::base::Content;
use crate::room::state::{self, Header};
use crate::wire::client::flat;
use crate::wire::client::{ClientInfo, Data, Tags};

/// A splitmix64 generator.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % bound
    }
}

/// What versions count in; the second is rare.
const VERSION_EPOCHS: [&str; 2] = ["", "db"];

struct Kept {
    offset: u64,
    at_ms: i64,
    flat: Vec<u8>,
}

/// The publications that are kept and the keys that are remembered, oldest first, in plain lists.
#[derive(Default)]
struct Model {
    top: u64,
    kept: Vec<Kept>,
    keys: Vec<(Key, i64, u64)>,
    version: Option<Version>,
    now_ms: i64,
}

impl Model {
    fn expire(&mut self, limits: &HomeLimits) {
        let now_ms = self.now_ms;
        self.kept
            .retain(|kept| now_ms - kept.at_ms < limits.history.age_ms as i64);
        self.keys
            .retain(|(_, at_ms, _)| now_ms - at_ms < limits.keys_age_ms as i64);
    }

    fn publish(&mut self, incoming: &Incoming<'_>, limits: &HomeLimits) -> Published {
        self.expire(limits);
        let seen = self
            .keys
            .iter()
            .find(|(key, ..)| Some(*key) == incoming.key);
        if let Some((_, _, offset)) = seen {
            return Published::Duplicate(Offset(*offset));
        }
        if let Some(version) = incoming.version {
            let last = self.version.filter(|last| last.epoch == version.epoch);
            if last.is_some_and(|last| version.number <= last.number) {
                return Published::Outdated(Offset(self.top));
            }
            self.version = Some(version);
        }
        let mut offset = 0;
        if !incoming.skip_history {
            self.top += 1;
            offset = self.top;
            let mut flat = Vec::new();
            let publication = Publication {
                offset,
                ..incoming.publication
            };
            flat::push_publication(&mut flat, &publication);
            let at_ms = self.now_ms;
            self.kept.push(Kept {
                offset,
                at_ms,
                flat,
            });
            while self.kept.len() > limits.history.count || self.bytes() > limits.history.bytes {
                self.kept.remove(0);
            }
        }
        if let Some(key) = incoming.key {
            self.keys.push((key, self.now_ms, offset));
            while self.keys.len() > limits.keys {
                self.keys.remove(0);
            }
        }
        Published::Sequenced(Offset(offset))
    }

    fn bytes(&self) -> usize {
        self.kept.iter().map(|kept| kept.flat.len()).sum()
    }

    fn read(&mut self, read: &Read, limits: &HomeLimits) -> (bool, Vec<u8>) {
        self.expire(limits);
        let matches = |epoch: Option<Epoch>| epoch.is_none() || epoch == Some(EPOCH);
        let flat = |found: &[&Kept]| found.iter().flat_map(|kept| kept.flat.clone()).collect();
        let nothing = Vec::new();
        match *read {
            Read::Recover { epoch, offset } => {
                let after = self.kept.iter().filter(|kept| kept.offset > offset.0);
                let found: Vec<_> = after.collect();
                let bytes: Vec<u8> = flat(&found);
                let connects = match (found.first(), found.last()) {
                    (Some(first), Some(last)) => {
                        first.offset == offset.0 + 1 && last.offset == self.top
                    }
                    _ => offset.0 == self.top,
                };
                let fits = found.len() <= limits.read_max && bytes.len() <= limits.read_bytes_max;
                let recovered = matches(epoch) && connects && fits;
                (recovered, if recovered { bytes } else { nothing })
            }
            Read::RecoverNewest { epoch, offset } => {
                let there = offset.0 == self.top;
                match self.kept.last() {
                    None => (matches(epoch) && there, nothing),
                    Some(_) if epoch == Some(EPOCH) && there => (true, nothing),
                    Some(newest) if newest.flat.len() <= limits.read_bytes_max => {
                        (true, newest.flat.clone())
                    }
                    Some(_) => (false, nothing),
                }
            }
            Read::Page {
                limit,
                since,
                reverse,
            } => {
                if since.is_some_and(|(epoch, _)| !matches(epoch)) {
                    return (false, nothing);
                }
                let mut found: Vec<_> = self.kept.iter().collect();
                if reverse {
                    found.reverse();
                }
                found.retain(|kept| match since {
                    None => true,
                    Some((_, since)) if reverse => kept.offset < since.0,
                    Some((_, since)) => kept.offset > since.0,
                });
                found.truncate((limit as usize).min(limits.page_max));
                while flat(&found).len() > limits.read_bytes_max {
                    found.pop();
                }
                (true, flat(&found))
            }
        }
    }
}

const EPOCH: Epoch = Epoch(0x1234);

struct World {
    dice: Dice,
    limits: HomeLimits,
    home: Home,
    model: Model,
    now_ms: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let limits = HomeLimits {
            history: HistoryLimits {
                count: dice.below(12) as usize,
                age_ms: 1 + dice.below(200),
                bytes: dice.below(600) as usize,
            },
            keys: dice.below(6) as usize,
            keys_age_ms: 1 + dice.below(100),
            meta_ms: 1_000_000,
            read_max: 1 + dice.below(8) as usize,
            page_max: 5,
            read_bytes_max: dice.below(400) as usize,
        };
        Self {
            dice,
            limits,
            home: Home::new("room", EPOCH, 0),
            model: Model::default(),
            now_ms: 0,
        }
    }

    fn step(&mut self) {
        match self.dice.below(20) {
            0..=9 => self.publish(),
            10..=15 => self.read(),
            16 => {
                self.home.forget_history();
                self.model.kept.clear();
            }
            17 => {
                self.home.expire(self.now_ms, &self.limits, 1);
                self.model.expire(&self.limits);
            }
            18 => self.restart(),
            _ => {
                let passed_ms = self.dice.below(60);
                self.now_ms += passed_ms;
                self.model.now_ms += passed_ms as i64;
            }
        }
        self.home.invariants(&self.limits);
        assert_eq!(self.home.top().0, self.model.top);
        assert_eq!(self.home.epoch(), EPOCH);
    }

    fn publish(&mut self) {
        let dice = &mut self.dice;
        let length = if dice.below(20) == 0 { 700 } else { 60 };
        let payload = vec![dice.below(256) as u8; dice.below(length) as usize];
        let mut tags = Vec::new();
        for _ in 0..dice.below(3) {
            flat::push_tag(&mut tags, "key", "value");
        }
        let content = [Content::Json, Content::Text, Content::Bytes][dice.below(3) as usize];
        let conn_info = Data {
            content,
            bytes: b"{}",
        };
        let info = ClientInfo {
            user: "user",
            client: "client",
            conn_info,
            chan_info: Data::default(),
        };
        let incoming = Incoming {
            publication: Publication {
                offset: dice.below(9),
                data: Data {
                    content,
                    bytes: &payload,
                },
                info: (dice.below(3) == 0).then_some(info),
                tags: Tags::from_flat(&tags),
                delta: dice.below(2) == 0,
            },
            key: (dice.below(3) == 0).then_some([dice.below(8) as u8; 16]),
            skip_history: dice.below(8) == 0,
            version: Version::new(
                dice.below(self.model.top + 3),
                VERSION_EPOCHS[dice.below(30) as usize / 29],
            ),
        };
        let expected = self.model.publish(&incoming, &self.limits);
        let published = self.home.publish(&incoming, self.now_ms, &self.limits);
        assert_eq!(published, expected);
        if !matches!(published, Published::Sequenced(Offset(1..))) {
            // What is old goes with the next publication that is kept.
            self.home.expire(self.now_ms, &self.limits, 1);
        }
        assert_eq!(self.home.history_bytes(), self.model.bytes());
    }

    fn read(&mut self) {
        let dice = &mut self.dice;
        let epoch = [None, Some(EPOCH), Some(Epoch(1))][dice.below(3) as usize];
        let offset = Offset((self.model.top + 2).saturating_sub(dice.below(14)));
        let read = match dice.below(3) {
            0 => Read::Recover { epoch, offset },
            1 => Read::RecoverNewest { epoch, offset },
            _ => Read::Page {
                limit: [0, 1, 3, 100, u32::MAX][dice.below(5) as usize],
                since: (dice.below(3) > 0).then_some((epoch, offset)),
                reverse: dice.below(2) == 0,
            },
        };
        let expected = self.model.read(&read, &self.limits);
        let mut out = Vec::new();
        let valid = self.home.read(&read, self.now_ms, &self.limits, &mut out);
        assert_eq!((valid, out), expected, "{read:?}");
    }

    /// Through a state file into a process whose clock begins anew.
    fn restart(&mut self) {
        let mut section = Vec::new();
        state::push_home(&mut section, &self.home, self.now_ms);
        let header = Header {
            epoch_seed: 1,
            incarnation: 1,
            wall_ms: 1,
        };
        let bytes = state::file(&header, vec![section]).concat();
        let saved = state::read(&bytes).expect("what was written");
        let down_ms = self.dice.below(60);
        self.now_ms = self.dice.below(60);
        self.model.now_ms += down_ms as i64;
        self.home = match saved.homes.first() {
            Some(saved) => Home::restore(saved, down_ms, self.now_ms, &self.limits),
            None => Home::new("room", EPOCH, self.now_ms),
        };
    }
}

#[test]
fn a_home_answers_as_a_plain_list_would() {
    for seed in 0..1_500 {
        let mut world = World::new(seed);
        for step in 0..400 {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.step()));
            assert!(result.is_ok(), "seed {seed}, step {step}");
        }
    }
}

//! What may go wrong, how often, and the dice that decide when.
//!
//! The dice are a splitmix64 generator: small, the same on every platform, and never seeded from
//! anything but the test's seed.

/// The conditions of a simulated world. Odds are probabilities from 0 to 1.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Odds that an operation is done within the submit that brings it.
    pub inline: f64,
    /// Nanoseconds that an operation or a network hop takes at most.
    pub delay_ns_max: u64,
    /// Odds that an operation or a hop takes up to `lag_ns_max` instead.
    pub lag: f64,
    /// Nanoseconds that a lagging operation or hop takes at most.
    pub lag_ns_max: u64,
    /// Nanoseconds that one turn of a shard takes at most; at least 1.
    pub turn_ns_max: u64,
    /// Bytes that a client's write travels in at most; at least 1.
    pub segment_bytes_max: usize,
    /// Bytes sent to a client that it has not read, above which a send stays in flight; at least 1.
    /// Read when the client connects.
    pub window_bytes: usize,
    /// Odds that a segment, a receive or a step of a send moves fewer bytes than it could.
    pub partial: f64,
    /// Odds that a receive with data is the last of its multishot.
    pub multishot_end: f64,
    /// Odds that a receive finds no buffer although there is one.
    pub no_buffers: f64,
    /// Odds that a step of a send finds the connection dead.
    pub send_break: f64,
    /// Odds that the connection dies when a segment arrives.
    pub arrival_break: f64,
    /// Odds that an accept fails and its connection is lost.
    pub accept_error: f64,
    /// Odds that an outgoing connection is refused.
    pub connect_refused: f64,
    /// Odds that a cancel or ring is reported although it need not be.
    pub aside: f64,
    /// Odds that closing a socket with unread bytes, or data for a closed one, resets the
    /// connection, so that bytes on their way to the client are lost (as TCP does).
    pub reset_on_unread: f64,
}

impl Faults {
    /// Nothing goes wrong and operations complete at once; a network hop takes a microsecond.
    pub fn none() -> Self {
        Self {
            inline: 1.0,
            delay_ns_max: 1_000,
            lag: 0.0,
            lag_ns_max: 0,
            turn_ns_max: 1_000,
            segment_bytes_max: usize::MAX,
            window_bytes: 64 * 1024,
            partial: 0.0,
            multishot_end: 0.0,
            no_buffers: 0.0,
            send_break: 0.0,
            arrival_break: 0.0,
            accept_error: 0.0,
            connect_refused: 0.0,
            aside: 0.0,
            reset_on_unread: 0.0,
        }
    }

    /// Delays, reordering and short transfers; every connection lives and every byte arrives.
    pub fn unordered() -> Self {
        Self {
            inline: 0.5,
            delay_ns_max: 200_000,
            lag: 0.01,
            lag_ns_max: 50_000_000,
            turn_ns_max: 50_000,
            segment_bytes_max: 64,
            window_bytes: 512,
            partial: 0.6,
            multishot_end: 0.1,
            no_buffers: 0.02,
            aside: 0.3,
            ..Self::none()
        }
    }

    /// All of [`Faults::unordered`], and connections break.
    pub fn chaotic() -> Self {
        Self {
            send_break: 0.002,
            arrival_break: 0.001,
            accept_error: 0.03,
            connect_refused: 0.1,
            reset_on_unread: 0.3,
            ..Self::unordered()
        }
    }
}

/// A splitmix64 generator.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound`, which is above 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below zero");
        ((u128::from(self.roll()) * u128::from(bound)) >> 64) as u64
    }

    pub(super) fn chance(&mut self, odds: f64) -> bool {
        // The upper 53 bits are a fraction that a double holds exactly.
        let fraction = (self.roll() >> 11) as f64 / (1u64 << 53) as f64;
        fraction < odds
    }

    /// `most`, or with the odds of a partial transfer anything from 1 to `most`.
    pub(super) fn share(&mut self, partial: f64, most: usize) -> usize {
        if self.chance(partial) {
            1 + self.below(most as u64) as usize
        } else {
            most
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dice_roll_the_published_sequence_of_splitmix64() {
        let mut dice = Dice::new(1_234_567);
        let rolls = [dice.roll(), dice.roll(), dice.roll()];
        assert_eq!(
            rolls,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn odds_of_zero_never_and_odds_of_one_always() {
        let mut dice = Dice::new(1);
        for _ in 0..1_000 {
            assert!(!dice.chance(0.0));
            assert!(dice.chance(1.0));
            assert!((1..=9).contains(&dice.share(0.5, 9)));
        }
    }
}

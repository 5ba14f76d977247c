//! Counts by failure, as a list of pairs: JSON has no other keys than strings.

use super::Failure;
use serde::{Deserialize, Deserializer, Serializer};
use std::collections::BTreeMap;

/// Writes the pairs.
pub(super) fn serialize<S: Serializer>(
    counts: &BTreeMap<Failure, u64>,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_seq(counts)
}

/// Reads the pairs.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<Failure, u64>, D::Error> {
    let pairs: Vec<(Failure, u64)> = Deserialize::deserialize(from)?;
    Ok(pairs.into_iter().collect())
}

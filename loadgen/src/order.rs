//! Whether the publications of one room come to one subscriber once each and in order.
//!
//! Sixteen bytes while all is well; the heap is used only after a gap, to tell late from repeated.
#![expect(
    clippy::box_collection,
    reason = "one word instead of three in every peer, and almost always absent"
)]

/// Gaps that one subscriber remembers; what comes from an older gap counts as repeated.
const GAPS_MAX: usize = 1_024;

/// The publications that a subscriber has seen: 1 to `next - 1`, apart from the gaps.
#[derive(Debug)]
pub(crate) struct Order {
    next: u32,
    /// Ranges that have not come, ascending and apart, first and last included.
    gaps: Option<Box<Vec<(u32, u32)>>>,
}

/// How a publication came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The next one, or one after a gap.
    New,
    /// For the first time, after a later one.
    Late,
    /// Not for the first time.
    Repeated,
}

impl Order {
    /// Nothing has come.
    pub(crate) fn new() -> Self {
        Self {
            next: 1,
            gaps: None,
        }
    }

    /// Publication `number` has come.
    pub(crate) fn take(&mut self, number: u32) -> Arrival {
        if number >= self.next {
            if number > self.next {
                let gaps = self.gaps.get_or_insert_default();
                if gaps.len() < GAPS_MAX {
                    gaps.push((self.next, number - 1));
                }
            }
            self.next = number.saturating_add(1);
            return Arrival::New;
        }
        let was_missing = self.gaps.as_mut().is_some_and(|gaps| fill(gaps, number));
        if was_missing {
            Arrival::Late
        } else {
            Arrival::Repeated
        }
    }

    /// How many of the publications 1 to `published` have not come.
    pub(crate) fn missing(&self, published: u32) -> u32 {
        let gaps = self.gaps.iter().flat_map(|gaps| gaps.iter());
        let in_gaps: u32 = gaps.map(|(first, last)| last - first + 1).sum();
        in_gaps + (published + 1).saturating_sub(self.next)
    }
}

/// Removes `number` from the gaps; says whether it was in one.
fn fill(gaps: &mut Vec<(u32, u32)>, number: u32) -> bool {
    let Some(index) = gaps
        .iter()
        .position(|gap| (gap.0..=gap.1).contains(&number))
    else {
        return false;
    };
    let (first, last) = gaps.remove(index);
    if number < last {
        gaps.insert(index, (number + 1, last));
    }
    if number > first {
        gaps.insert(index, (first, number - 1));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use Arrival::{Late, New, Repeated};

    fn arrivals(numbers: &[u32]) -> Vec<Arrival> {
        let mut order = Order::new();
        numbers.iter().map(|number| order.take(*number)).collect()
    }

    #[test]
    fn order_without_gaps_needs_no_heap() {
        let mut order = Order::new();
        assert!((1..=100).all(|number| order.take(number) == New));
        assert!(order.gaps.is_none());
    }

    #[test]
    fn late_is_told_from_repeated() {
        assert_eq!(arrivals(&[1, 3, 2, 4]), [New, New, Late, New]);
        assert_eq!(arrivals(&[1, 2, 2, 3]), [New, New, Repeated, New]);
        assert_eq!(arrivals(&[2, 3]), [New, New]);
        assert_eq!(
            arrivals(&[1, 3, 2, 2, 3]),
            [New, New, Late, Repeated, Repeated]
        );
    }

    #[test]
    fn what_never_came_is_missing() {
        let mut order = Order::new();
        assert_eq!(order.missing(20), 20);
        for number in [2, 3, 7, 5] {
            order.take(number);
        }
        assert_eq!(order.missing(7), 3);
        assert_eq!(order.missing(9), 5);
    }

    #[test]
    fn a_gap_is_filled_from_any_side() {
        for order in [[2, 3, 4], [4, 3, 2], [3, 2, 4], [3, 4, 2]] {
            let mut numbers = vec![1, 5];
            numbers.extend(order);
            numbers.push(3);
            assert_eq!(arrivals(&numbers)[2..], [Late, Late, Late, Repeated]);
        }
    }
}

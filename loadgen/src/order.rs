//! Whether the publications of one room come to one subscriber once each and in order.
//!
//! Sixteen bytes while all is well; the heap is used only after a gap, to tell late from repeated.

/// Gaps that one subscriber remembers. Of further ones only the numbers and the range are kept.
const GAPS_MAX: usize = 1_024;

/// The publications that a subscriber has seen: `base` to `next - 1`, apart from the gaps.
#[derive(Debug)]
pub(crate) struct Order {
    /// The first one that it can have seen, or has seen; 0 while that is open.
    base: u32,
    next: u32,
    /// Present once something came too early.
    gaps: Option<Box<Gaps>>,
}

/// What has not come.
#[derive(Debug, Default)]
struct Gaps {
    /// Ranges that have not come, ascending and apart, first and last included.
    known: Vec<(u32, u32)>,
    /// Publications that have not come and are in no known gap.
    forgotten: u32,
    /// First and last publication that may be forgotten.
    forgotten_range: (u32, u32),
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
            base: 1,
            next: 1,
            gaps: None,
        }
    }

    /// Whatever comes first is where it begins: for a subscriber that came while publications flowed.
    pub(crate) fn from_first() -> Self {
        Self {
            base: 0,
            next: 0,
            gaps: None,
        }
    }

    /// Publication `number` has come.
    pub(crate) fn take(&mut self, number: u32) -> Arrival {
        if self.base == 0 {
            (self.base, self.next) = (number, number);
        }
        if (1..self.base).contains(&number) {
            // It was there earlier than the first that came says: what is between was due too.
            if number + 1 < self.base {
                let gaps = self.gaps.get_or_insert_default();
                gaps.add_before(number + 1, self.base - 1);
            }
            self.base = number;
            return Arrival::Late;
        }
        if number >= self.next {
            if number > self.next {
                self.gaps.get_or_insert_default().add(self.next, number - 1);
            }
            self.next = number.saturating_add(1);
            return Arrival::New;
        }
        let was_missing = self.gaps.as_mut().is_some_and(|gaps| gaps.fill(number));
        if was_missing {
            Arrival::Late
        } else {
            Arrival::Repeated
        }
    }

    /// The latest publication that has come or was skipped; 0 before the first.
    pub(crate) fn last(&self) -> u32 {
        self.next - 1
    }

    /// Publications up to `number` do not come and are not missing: how many those are. Gaps before
    /// the latest publication stay.
    pub(crate) fn skip(&mut self, number: u32) -> u32 {
        let skipped = number.saturating_add(1).saturating_sub(self.next);
        self.next += skipped;
        skipped
    }

    /// How many before the latest one have not come.
    pub(crate) fn gaps(&self) -> u32 {
        self.gaps.as_ref().map_or(0, |gaps| gaps.missing())
    }

    /// How many of the publications 1 to `published` have not come.
    pub(crate) fn missing(&self, published: u32) -> u32 {
        self.missing_from(1, published)
    }

    /// How many of the publications `first` to `published` have not come; and of earlier ones, those that
    /// are missing behind one that came.
    pub(crate) fn missing_from(&self, first: u32, published: u32) -> u32 {
        if self.base == 0 {
            return (published + 1).saturating_sub(first);
        }
        self.base.saturating_sub(first) + self.gaps() + (published + 1).saturating_sub(self.next)
    }
}

impl Gaps {
    /// `first` to `last`, later than all before, have not come.
    fn add(&mut self, first: u32, last: u32) {
        if self.known.len() < GAPS_MAX {
            self.known.push((first, last));
            return;
        }
        if self.forgotten == 0 {
            self.forgotten_range.0 = first;
        }
        self.forgotten_range.1 = last;
        self.forgotten += last - first + 1;
    }

    /// `first` to `last`, earlier than all before, have not come.
    fn add_before(&mut self, first: u32, last: u32) {
        if self.known.len() < GAPS_MAX {
            self.known.insert(0, (first, last));
            return;
        }
        if self.forgotten == 0 {
            self.forgotten_range.1 = last;
        }
        self.forgotten_range.0 = first;
        self.forgotten += last - first + 1;
    }

    /// Takes `number` out; says whether it was missing. One that may be forgotten counts as missing
    /// as long as any forgotten one is: a late one must not be called repeated.
    fn fill(&mut self, number: u32) -> bool {
        if let Some(index) = self
            .known
            .iter()
            .position(|gap| (gap.0..=gap.1).contains(&number))
        {
            let (first, last) = self.known.remove(index);
            if number < last {
                self.known.insert(index, (number + 1, last));
            }
            if number > first {
                self.known.insert(index, (first, number - 1));
            }
            return true;
        }
        let (first, last) = self.forgotten_range;
        let may_be_forgotten = self.forgotten > 0 && (first..=last).contains(&number);
        if may_be_forgotten {
            self.forgotten -= 1;
        }
        may_be_forgotten
    }

    fn missing(&self) -> u32 {
        let known = self.known.iter().map(|(first, last)| last - first + 1);
        known.sum::<u32>() + self.forgotten
    }
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
    fn what_is_skipped_is_not_missing_and_a_gap_before_it_is() {
        let mut order = Order::new();
        order.take(1);
        order.take(3);
        assert_eq!((order.skip(7), order.last()), (4, 7));
        assert_eq!(order.skip(5), 0);
        assert_eq!(order.take(8), New);
        assert_eq!((order.missing(8), order.missing(9)), (1, 2));
    }

    #[test]
    fn one_who_came_later_misses_nothing_of_before() {
        let mut order = Order::from_first();
        // Everything up to 9 was published before it came; then 8 and 9 were not.
        assert_eq!(
            (order.missing_from(10, 9), order.missing_from(8, 9)),
            (0, 2)
        );
        assert_eq!((order.take(7), order.take(9)), (New, New));
        assert_eq!((order.gaps(), order.missing_from(8, 10)), (1, 2));
        // 5 and 6 were published when it was there, and did not come.
        assert_eq!(order.missing_from(5, 10), 4);
    }

    #[test]
    fn what_comes_before_the_first_that_came_is_late_and_not_repeated() {
        let mut order = Order::from_first();
        let all = [9, 8, 5, 6, 8, 10, 7].map(|number| order.take(number));
        assert_eq!(all, [New, Late, Late, Late, Repeated, New, Late]);
        assert_eq!((order.gaps(), order.missing_from(4, 10)), (0, 1));
        // One that is there from the start has seen none before the first.
        assert_eq!(arrivals(&[1, 0]), [New, Repeated]);
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

    #[test]
    fn a_forgotten_gap_is_missing_and_what_comes_of_it_is_late() {
        let mut order = Order::new();
        let count = GAPS_MAX as u32 + 10;
        // Every even one comes: as many gaps of one as publications.
        for half in 1..=count {
            assert_eq!(order.take(2 * half), New);
        }
        assert_eq!(order.missing(2 * count), count);
        for half in 1..=count {
            assert_eq!(order.take(2 * half - 1), Late);
        }
        assert_eq!(order.missing(2 * count), 0);
        assert_eq!(order.take(2 * count - 1), Repeated);
    }

    #[test]
    fn one_before_the_forgotten_gaps_is_still_told_to_be_repeated() {
        let mut order = Order::new();
        for half in 1..=GAPS_MAX as u32 + 10 {
            order.take(2 * half);
        }
        assert_eq!(order.take(2), Repeated);
    }
}

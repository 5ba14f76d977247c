//! Which room a connection is in, and which publications a room gets: what is due to whom.

use crate::schedule::Schedule;

/// Members of a room at most, when connections go to the rooms in turn.
pub(crate) fn members_max(connections: u32, rooms: u32) -> u32 {
    connections.div_ceil(rooms)
}

/// The room of a connection: in turn, after a crowd that is all in room 0 and leaves the other rooms
/// to the others.
pub(crate) fn room_of(connection: u32, rooms: u32, crowd: u32) -> u32 {
    match crowd {
        0 => connection % rooms,
        _ if connection < crowd => 0,
        _ => 1 + (connection - crowd) % (rooms - 1),
    }
}

/// Publications of one room, when `published` went to `rooms` rooms in turn, room 0 first.
pub(crate) fn publications_of(room: u32, rooms: u32, published: u64) -> u32 {
    let (each, more) = (published / u64::from(rooms), published % u64::from(rooms));
    each as u32 + u32::from(u64::from(room) < more)
}

/// The first publication of a room, from 1, that was due later than `there_ns` after the start of the
/// schedule: who was subscribed by then must get it. One behind the last where none was, or where the
/// schedule cannot tell.
pub(crate) fn first_after(
    there_ns: u64,
    schedule: &Schedule,
    room: u32,
    rooms: u32,
    published: u32,
) -> u32 {
    let is_before = |number: u32| {
        let total = u64::from(number - 1) * u64::from(rooms) + u64::from(room);
        schedule
            .due_ns(total)
            .is_none_or(|due_ns| due_ns <= there_ns)
    };
    let (mut low, mut high) = (1, published + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        match is_before(middle) {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_has_a_room_of_its_own() {
        let rooms = |crowd| -> Vec<u32> { (0..5).map(|i| room_of(i, 3, crowd)).collect() };
        assert_eq!(rooms(0), [0, 1, 2, 0, 1]);
        assert_eq!(rooms(2), [0, 0, 1, 2, 1]);
    }

    #[test]
    fn who_came_later_must_get_what_was_due_from_then_on() {
        use crate::schedule::Rate;
        // Publication k is due after k seconds and goes to room k modulo 3.
        let schedule = Schedule::counted(12, Rate(1.0), 1);
        let first = |seconds: u64| first_after(seconds * 1_000_000_000, &schedule, 1, 3, 4);
        assert_eq!(
            [first(0), first(1), first(4), first(9), first(10)],
            [1, 2, 3, 4, 5]
        );
        assert_eq!(first_after(0, &Schedule::closed(12), 1, 3, 4), 5);
    }

    #[test]
    fn publications_in_turn_reach_the_first_rooms_first() {
        let of = |published| -> Vec<u32> {
            (0..3)
                .map(|room| publications_of(room, 3, published))
                .collect()
        };
        let expected = [[0, 0, 0], [1, 1, 0], [2, 2, 2]];
        assert_eq!([of(0), of(2), of(6)], expected);
    }
}

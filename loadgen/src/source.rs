//! Where connections come from. One address has some 28,000 ports to one destination, by
//! `net.ipv4.ip_local_port_range`; more connections want more addresses.

use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;
use std::sync::Arc;

/// Connections from one address on loopback. `connect` takes ports of one parity first: beyond about
/// 14,000 to the same destination it has to search, which makes it very slow.
const CONNECTIONS_PER_ADDRESS: u32 = 14_000;
/// Addresses of a list at most.
const ADDRESSES_MAX: u32 = 65_536;

/// The source addresses of a worker thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sources {
    /// The kernel's choice.
    Kernel,
    /// Those of 127.0.0.0/8 with this third byte.
    Loopback(u8),
    /// These, in turn.
    Given(Arc<[Ipv4Addr]>),
}

impl Sources {
    /// The address and port, 0 for any, of a connection: by its number in the run and in its thread's share.
    pub(crate) fn of(&self, connection: u32, in_share: u32) -> SocketAddrV4 {
        let addr = match self {
            Self::Kernel => Ipv4Addr::UNSPECIFIED,
            Self::Loopback(third) => {
                let fourth = 1 + in_share / CONNECTIONS_PER_ADDRESS;
                Ipv4Addr::new(127, 0, *third, fourth as u8)
            }
            Self::Given(all) => all[connection as usize % all.len()],
        };
        SocketAddrV4::new(addr, 0)
    }
}

/// Addresses from the first to the last, as `10.0.0.10-20`, `10.0.0.10-10.0.1.20` or a single one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AddressRange {
    first: Ipv4Addr,
    last: Ipv4Addr,
}

impl FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || "an address or a range, as 10.0.0.10-20 or 10.0.0.10-10.0.1.20".to_owned();
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first: Ipv4Addr = first.parse().map_err(|_| expected())?;
        let [a, b, c, _] = first.octets();
        let last = match last.parse::<u8>() {
            Ok(fourth) => Ipv4Addr::new(a, b, c, fourth),
            Err(_) => last.parse().map_err(|_| expected())?,
        };
        let range = Self { first, last };
        match range.len() {
            Some(1..=ADDRESSES_MAX) => Ok(range),
            Some(_) => Err(format!("more than {ADDRESSES_MAX} addresses")),
            None => Err(format!("{last} is before {first}")),
        }
    }
}

impl AddressRange {
    fn len(self) -> Option<u32> {
        let between = u32::from(self.last).checked_sub(u32::from(self.first))?;
        Some(between.saturating_add(1))
    }

    /// All addresses of some ranges.
    pub(crate) fn addresses(ranges: &[Self]) -> Arc<[Ipv4Addr]> {
        let each = ranges
            .iter()
            .map(|range| u32::from(range.first)..=u32::from(range.last));
        each.flatten().map(Ipv4Addr::from).collect()
    }

    /// Whether it is one that the command line takes.
    pub(crate) fn is_sound(self) -> bool {
        matches!(self.len(), Some(1..=ADDRESSES_MAX))
    }
}

/// Whether `connections` of one host to `target` find a port, `ports` on each of its addresses. Of a target on
/// loopback there are enough, unless addresses were named.
pub(crate) fn check_ports(
    connections: u32,
    named: &[AddressRange],
    target: SocketAddrV4,
    ports: u32,
) -> Result<(), String> {
    if named.is_empty() && target.ip().is_loopback() {
        return Ok(());
    }
    let addresses = AddressRange::addresses(named).len().max(1);
    let places = addresses as u64 * u64::from(ports);
    match u64::from(connections) <= places {
        true => Ok(()),
        false => Err(format!(
            "{connections} connections to one destination need more than {addresses} source addresses with \
             {ports} ports each: name more with --source, or widen net.ipv4.ip_local_port_range"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<String> {
        let ranges: Vec<AddressRange> = text.split(',').map(|one| one.parse().unwrap()).collect();
        let all = AddressRange::addresses(&ranges);
        all.iter().map(Ipv4Addr::to_string).collect()
    }

    #[test]
    fn a_range_has_all_addresses_from_the_first_to_the_last() {
        assert_eq!(addresses("10.0.0.9"), ["10.0.0.9"]);
        assert_eq!(
            addresses("10.0.0.9-10,10.1.0.1"),
            ["10.0.0.9", "10.0.0.10", "10.1.0.1"]
        );
        assert_eq!(addresses("10.0.0.254-10.0.1.1").len(), 4);
        for bad in [
            "",
            "10.0.0",
            "10.0.0.9-8",
            "10.0.0.9-x",
            "0.0.0.0-255.255.255.255",
            "a.b.c.d-7",
        ] {
            assert!(bad.parse::<AddressRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn connections_take_the_addresses_in_turn() {
        let given = Sources::Given(AddressRange::addresses(&["10.0.0.1-3".parse().unwrap()]));
        let all: Vec<_> = (0..4).map(|i| given.of(i, 0).ip().octets()[3]).collect();
        assert_eq!(all, [1, 2, 3, 1]);
        let of = |in_share| Sources::Loopback(7).of(99_999, in_share).ip().to_string();
        assert_eq!([of(13_999), of(14_000)], ["127.0.7.1", "127.0.7.2"]);
        assert!(Sources::Kernel.of(5, 5).ip().is_unspecified());
    }

    #[test]
    fn too_few_ports_are_told_before_the_run() {
        let (elsewhere, loopback) = (
            "10.0.0.1:80".parse().unwrap(),
            "127.0.0.1:80".parse().unwrap(),
        );
        let two = ["10.0.0.1-2".parse().unwrap()];
        assert_eq!(check_ports(28_232, &[], elsewhere, 28_232), Ok(()));
        assert_eq!(check_ports(1_000_000, &[], loopback, 28_232), Ok(()));
        for target in [elsewhere, loopback] {
            let error = check_ports(60_000, &two, target, 28_232).unwrap_err();
            assert!(error.contains("--source"), "{error}");
        }
    }
}

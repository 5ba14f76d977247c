//! What lanes cost in memory, under the allocator of the binaries.
//!
//! One test, alone in its process: the process's memory is what is measured.

use ringcast::limits;
use ringcast::mesh::{ArchivedDelivery, Delivery, Port, mesh, ring};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PAGE_BYTES: usize = 4096;
const NODES: usize = 57;
const LANES: usize = NODES * (NODES - 1) * 2;

#[test]
fn lanes_that_carry_little_cost_address_space_only() {
    let before = resident_bytes();
    let mut ports = mesh(NODES as u16, limits::LANE_BYTES);
    let unused = resident_bytes().saturating_sub(before);
    // The positions of a lane, and the allocator's own note of it.
    let bound = LANES * (PAGE_BYTES + 1024);
    assert!(unused < bound, "{unused} bytes for unused lanes");

    let turns = 200;
    for _ in 0..turns {
        exchange(&mut ports, 4);
    }
    let used = resident_bytes().saturating_sub(before);
    // Delivery lanes only were used, each by turns of four frames.
    let bound = bound + LANES / 2 * (limits::LANE_RESTART_BYTES + PAGE_BYTES);
    let carried = LANES / 2 * turns * 4 * ring::record_bytes(size_of::<ArchivedDelivery>());
    assert!(
        carried > 2 * bound,
        "{carried} bytes are too few to prove anything"
    );
    assert!(
        used < bound,
        "{used} bytes for lanes that carried {carried}"
    );
}

/// One turn of all nodes: everybody sends `frames` to everybody and takes what came.
fn exchange(ports: &mut [Port], frames: usize) {
    for port in ports.iter_mut() {
        for target in port.inlets.peers() {
            for _ in 0..frames {
                let sent = port.outlets.deliver(target, &Delivery::Drained);
                assert_eq!(sent, Ok(()));
            }
        }
        port.outlets.publish(|_| {});
    }
    for port in ports.iter_mut() {
        for source in port.inlets.peers() {
            while let Some(frame) = port.inlets.next_delivery(source) {
                assert_eq!(frame.get(), Delivery::Drained);
            }
        }
    }
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * PAGE_BYTES
}

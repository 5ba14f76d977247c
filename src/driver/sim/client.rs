//! A fake client: the far end of one simulated connection, steered by the test.

use super::kernel::{Event, Signal, StreamId};
use super::stream::End;
use super::world::World;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// A client. Dropping it changes nothing: its connection stays as it is.
#[derive(Clone, Debug)]
pub struct Client {
    world: World,
    id: StreamId,
}

impl Client {
    pub(super) fn new(world: World, id: StreamId) -> Self {
        Self { world, id }
    }

    /// Writes bytes, which arrive in order, in segments of random size with random delays. Lost
    /// silently when the connection is dead. Panics after [`Client::close`] or [`Client::reset`].
    pub fn write(&self, bytes: &[u8]) {
        self.world.kernel().write(self.id, bytes);
    }

    /// Takes the bytes received since the last call.
    pub fn read(&self) -> Vec<u8> {
        let mut kernel = self.world.kernel();
        std::mem::take(&mut kernel.streams[self.id].client.received)
    }

    /// Stops reading: the window fills, and then sends stay in flight.
    pub fn stop_reading(&self) {
        self.world.kernel().streams[self.id].client.stopped = true;
    }

    /// Reads again, first what the window holds.
    pub fn resume_reading(&self) {
        self.world.kernel().resume(self.id);
    }

    /// Is gone without a trace: nothing that is under way arrives on either side, no end of stream
    /// follows, and sends stay in flight once the window is full.
    pub fn vanish(&self) {
        self.world.kernel().streams[self.id].client.vanished = true;
    }

    /// Resets the connection. Overtakes what was written before; the shard's next receive or send
    /// fails with ECONNRESET, later sends with EPIPE.
    pub fn reset(&self) {
        let mut kernel = self.world.kernel();
        let client = &mut kernel.streams[self.id].client;
        client.finished = true;
        client.reset_seen = true;
        let at_ns = kernel.now_ns + kernel.hop_ns();
        kernel.schedule(at_ns, Event::Arrive(self.id, Signal::Reset));
    }

    /// Ends its stream after what was written before; still reads what the shard sends.
    pub fn close(&self) {
        let mut kernel = self.world.kernel();
        let client = &mut kernel.streams[self.id].client;
        if !std::mem::replace(&mut client.finished, true) {
            kernel.send_to_shard(self.id, Signal::Fin);
        }
    }

    /// How the connection ended for the client; `None` while it has not, as far as it has read.
    /// Bytes received before are still there to [`Client::read`].
    pub fn end(&self) -> Option<End> {
        self.world.kernel().streams[self.id].end()
    }

    /// Whether [`Client::close`] or [`Client::reset`] was called.
    pub fn is_finished(&self) -> bool {
        self.world.kernel().streams[self.id].client.finished
    }

    /// Slot of the shard's file table that holds the connection, if one does.
    pub fn slot(&self) -> Option<u32> {
        self.world.kernel().streams[self.id].slot
    }

    /// Bytes sent to the client that it has not read, on their way or in its window.
    pub fn unread_bytes(&self) -> usize {
        self.world.kernel().streams[self.id].window_used
    }

    /// The client's address, as the shard's accept reports it.
    pub fn address(&self) -> SocketAddr {
        self.world.kernel().streams[self.id].peer
    }
}

/// The address of the client with this index: one of its own for each.
pub fn client_address(index: usize) -> SocketAddr {
    let host = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 1).to_bits() + index as u32);
    SocketAddrV4::new(host, 40_000).into()
}

//! The handle on a simulated world: its clock, its scheduler and the doors into it.

use super::client::{Client, client_address};
use super::faults::Faults;
use super::kernel::{Event, Kernel};
use super::stream::Stream;
use super::{Sim, SimSetup};
use std::cell::{RefCell, RefMut};
use std::net::SocketAddr;
use std::rc::Rc;

/// What the scheduler says comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The shard with this index takes a turn, which must end with a submit.
    Turn(u16),
    /// No shard had anything to do; the clock was moved to the next thing that happens.
    Waited,
    /// No shard has anything to do and nothing will ever happen unless a client acts.
    Idle,
}

/// A simulated world. Clones are handles on the same one.
#[derive(Clone, Debug)]
pub struct World(Rc<RefCell<Kernel>>);

impl World {
    /// A world without shards. The same seed, faults and calls make the same run.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self(Rc::new(RefCell::new(Kernel::new(seed, faults))))
    }

    /// The ring of a new shard; indices count from 0.
    pub fn sim(&self, setup: SimSetup) -> Sim {
        let node = self.kernel().add_node(&setup);
        Sim::new(self.clone(), node, &setup)
    }

    /// A client that connects to shard `node` from an address of its own.
    pub fn connect(&self, node: u16) -> Client {
        let address = client_address(self.kernel().streams.len());
        self.connect_from(node, address)
    }

    /// A client that connects to shard `node` from `address`.
    pub fn connect_from(&self, node: u16, address: SocketAddr) -> Client {
        let mut kernel = self.kernel();
        let id = kernel.streams.len();
        let window_bytes = kernel.faults.window_bytes;
        kernel
            .streams
            .push(Stream::new(node, address, window_bytes));
        let at_ns = kernel.now_ns + kernel.hop_ns();
        // What the client writes before it is accepted waits behind the handshake.
        kernel.streams[id].to_shard_ns = at_ns;
        kernel.schedule(at_ns, Event::Syn(id));
        drop(kernel);
        Client::new(self.clone(), id)
    }

    /// The far end of the next connection that shard `node` opened, oldest first.
    pub fn take_dialled(&self, node: u16) -> Option<Client> {
        let id = self.kernel().node(node).dialled.pop_front()?;
        Some(Client::new(self.clone(), id))
    }

    /// Rings the doorbell of shard `node`, as a thread without a ring does.
    pub fn ring(&self, node: u16) {
        self.kernel().start(Event::Bell(node));
    }

    /// Chooses what comes next. A shard is chosen at random among those that have completions or
    /// whose sleep is over; the clock moves by a random turn first, so that a shard which never
    /// sleeps does not stop it.
    pub fn step(&self) -> Step {
        let runnable = self.runnable();
        if runnable.is_empty() {
            let advanced = self.advance_to_next();
            return if advanced { Step::Waited } else { Step::Idle };
        }
        let mut kernel = self.kernel();
        let index = kernel.dice.below(runnable.len() as u64) as usize;
        let node = runnable[index];
        let turn_ns = kernel.faults.turn_ns_max.max(1);
        let until_ns = kernel.now_ns + 1 + kernel.dice.below(turn_ns);
        kernel.advance_to(until_ns);
        kernel.note(&[u64::from(node)]);
        Step::Turn(node)
    }

    /// Shards that have completions to reap or whose sleep is over, by index.
    pub fn runnable(&self) -> Vec<u16> {
        let kernel = self.kernel();
        let nodes = kernel.nodes.iter().enumerate();
        nodes
            .filter(|(_, node)| !node.completions.is_empty() || node.wake_ns <= kernel.now_ns)
            .map(|(index, _)| index as u16)
            .collect()
    }

    /// Moment of the next thing that happens by itself: an event, or the end of a sleep. `None` when
    /// nothing will. A shard that is awake already counts for nothing here.
    pub fn next_deadline(&self) -> Option<u64> {
        let kernel = self.kernel();
        let sleeps = kernel.nodes.iter().map(|node| node.wake_ns);
        let sleeping = sleeps.filter(|wake_ns| (kernel.now_ns + 1..u64::MAX).contains(wake_ns));
        sleeping.chain(kernel.next_event_ns()).min()
    }

    /// Moves the clock to the next deadline and lets happen what is due. False when there is none.
    pub fn advance_to_next(&self) -> bool {
        let deadline = self.next_deadline();
        if let Some(deadline_ns) = deadline {
            self.kernel().advance_to(deadline_ns);
        }
        deadline.is_some()
    }

    /// Moves the clock by `time_ns` and lets happen what is due on the way.
    pub fn advance_by(&self, time_ns: u64) {
        let mut kernel = self.kernel();
        let until_ns = kernel.now_ns + time_ns;
        kernel.advance_to(until_ns);
    }

    /// Nanoseconds of the virtual clock, which all shards share.
    pub fn now_ns(&self) -> u64 {
        self.kernel().now_ns
    }

    /// A number below `bound` (above 0) from the world's dice, for the test's own choices.
    pub fn random(&self, bound: u64) -> u64 {
        self.kernel().dice.below(bound)
    }

    /// Hash of everything that has happened: two runs with one seed have the same.
    pub fn trace(&self) -> u64 {
        self.kernel().trace
    }

    /// Changes the conditions from now on; operations under way keep their delays.
    pub fn set_faults(&self, faults: Faults) {
        self.kernel().faults = faults;
    }

    pub(super) fn kernel(&self) -> RefMut<'_, Kernel> {
        self.0.borrow_mut()
    }
}

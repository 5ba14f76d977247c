//! What the kernel counts of processes and sockets, from `/proc`.

use serde::{Deserialize, Serialize};
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

/// CPU time of threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cpu {
    /// Time on a core, nanoseconds.
    pub(crate) run_ns: u64,
    /// Time in which it could have run and another thread had the core, nanoseconds.
    pub(crate) queued_ns: u64,
}

impl Cpu {
    /// What was used since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            run_ns: self.run_ns.saturating_sub(before.run_ns),
            queued_ns: self.queued_ns.saturating_sub(before.queued_ns),
        }
    }
}

/// One reading of a process.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Reading {
    /// All its threads that run; finer than the ticks of user and system time.
    pub(crate) cpu: Cpu,
    /// User time, in ticks of 10 ms.
    pub(crate) user: Duration,
    /// System time, in ticks of 10 ms.
    pub(crate) system: Duration,
    /// Resident memory (VmRSS), bytes.
    pub(crate) rss_bytes: u64,
    /// Resident memory with shared pages divided among those who share them, bytes; 0 where the kernel
    /// does not tell it to us.
    pub(crate) pss_bytes: u64,
    /// Context switches of all threads, those that were forced on them included.
    pub(crate) switches: u64,
}

impl Reading {
    /// Adds another process's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.cpu.run_ns += other.cpu.run_ns;
        self.cpu.queued_ns += other.cpu.queued_ns;
        self.user += other.user;
        self.system += other.system;
        self.rss_bytes += other.rss_bytes;
        self.pss_bytes += other.pss_bytes;
        self.switches += other.switches;
    }
}

/// Reads the processes together; `None` when there are none. The error names the process.
pub(crate) fn read_all(pids: &[u32]) -> Result<Option<Reading>, String> {
    let mut all = None;
    for pid in pids {
        let reading = read_process(*pid).map_err(|error| format!("--server-pid {pid}: {error}"))?;
        all.get_or_insert_with(Reading::default).add(&reading);
    }
    Ok(all)
}

/// Reads this process; threads that have ended count too.
pub(crate) fn read_own() -> Result<Reading, String> {
    let mut own = read_process(std::process::id()).map_err(|error| format!("/proc: {error}"))?;
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    own.cpu.run_ns = used.tv_sec as u64 * 1_000_000_000 + used.tv_nsec as u64;
    Ok(own)
}

/// Kernel memory in the buffers of all TCP sockets of the network namespace, bytes.
pub(crate) fn read_socket_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/net/sockstat").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split_ascii_whitespace();
    words.find(|word| *word == "mem")?;
    let pages: u64 = words.next()?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Ports that `connect` chooses from.
pub(crate) fn local_ports() -> u32 {
    const DEFAULT: (u32, u32) = (32_768, 60_999);
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let text = text.unwrap_or_default();
    let mut words = text.split_ascii_whitespace().map(str::parse);
    let (first, last) = match (words.next(), words.next()) {
        (Some(Ok(first)), Some(Ok(last))) => (first, last),
        _ => DEFAULT,
    };
    (last + 1).saturating_sub(first)
}

/// Reads the process `pid`.
pub(crate) fn read_process(pid: u32) -> io::Result<Reading> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let (user_ticks, system_ticks) = parse_stat(&stat).ok_or_else(unreadable)?;
    let tick = 1.0 / rustix::param::clock_ticks_per_second() as f64;
    let mut cpu = Cpu::default();
    let mut switches = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the reading.
        let path = task?.path();
        let Ok(text) = std::fs::read_to_string(path.join("schedstat")) else {
            continue;
        };
        if let Ok(status) = std::fs::read_to_string(path.join("status")) {
            switches += parse_switches(&status);
        }
        let thread = parse_schedstat(&text).ok_or_else(unreadable)?;
        cpu.run_ns += thread.run_ns;
        cpu.queued_ns += thread.queued_ns;
    }
    Ok(Reading {
        cpu,
        user: Duration::from_secs_f64(user_ticks as f64 * tick),
        system: Duration::from_secs_f64(system_ticks as f64 * tick),
        rss_bytes: parse_kib(&status, "VmRSS:").ok_or_else(unreadable)?,
        pss_bytes: std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
            .ok()
            .and_then(|text| parse_kib(&text, "Pss:"))
            .unwrap_or(0),
        switches,
    })
}

/// Reads a thread of this process.
pub(crate) fn read_thread(tid: u32) -> io::Result<Cpu> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{tid}/schedstat"))?;
    parse_schedstat(&text).ok_or_else(unreadable)
}

/// Which start of which kernel this is.
pub(crate) fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        text.unwrap_or_default().trim().to_owned()
    })
}

/// Name of this host.
pub(crate) fn name() -> String {
    let kernel = rustix::system::uname();
    kernel.nodename().to_string_lossy().into_owned()
}

/// Raises the soft descriptor limit to the hard one; the result is the limit now.
pub(crate) fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

fn unreadable() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "/proc has an unknown format")
}

/// User and system ticks (fields 14 and 15). The command name in field 2 may hold anything.
fn parse_stat(text: &str) -> Option<(u64, u64)> {
    let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
    let user = fields.nth(11)?.parse().ok()?;
    Some((user, fields.next()?.parse().ok()?))
}

fn parse_schedstat(text: &str) -> Option<Cpu> {
    let mut fields = text.split_ascii_whitespace();
    Some(Cpu {
        run_ns: fields.next()?.parse().ok()?,
        queued_ns: fields.next()?.parse().ok()?,
    })
}

/// The value of a line `name NNN kB`, bytes.
fn parse_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn parse_switches(status: &str) -> u64 {
    let names = ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"];
    let values = status.lines().filter_map(|line| {
        let value = names.iter().find_map(|name| line.strip_prefix(name))?;
        value.trim().parse::<u64>().ok()
    });
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 55 66 0 0 20 0 1 0 9 9 9";
        assert_eq!(parse_stat(stat), Some((55, 66)));
    }

    #[test]
    fn what_a_thread_used_that_has_ended_is_not_forgotten() {
        let before = read_own().unwrap();
        let spin = || {
            let started = std::time::Instant::now();
            while started.elapsed() < Duration::from_millis(50) {
                std::hint::spin_loop();
            }
        };
        std::thread::spawn(spin).join().unwrap();
        let after = read_own().unwrap();
        assert!(after.cpu.since(before.cpu).run_ns > 1_000_000);
    }

    #[test]
    fn this_process_uses_cpu_and_memory() {
        let before = read_process(std::process::id()).unwrap();
        let started = std::time::Instant::now();
        let mut spins = 0u64;
        while started.elapsed() < Duration::from_millis(30) {
            spins = std::hint::black_box(spins + 1);
        }
        let after = read_process(std::process::id()).unwrap();
        assert!(after.cpu.since(before.cpu).run_ns > 1_000_000);
        assert!(after.rss_bytes > 100_000 && after.pss_bytes > 100_000);
        assert!(after.switches >= before.switches);
        assert!(read_all(&[]).unwrap().is_none());
        let twice = read_all(&[std::process::id(), std::process::id()]).unwrap();
        assert!(twice.unwrap().rss_bytes > after.rss_bytes);
        assert!(read_socket_bytes().is_some());
        assert!(read_process(u32::MAX).is_err());
    }
}

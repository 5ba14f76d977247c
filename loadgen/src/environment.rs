//! Where a run took place: what its numbers depend on and nobody remembers later.

use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};
use std::fs::read_to_string;

/// The host and this program.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Environment {
    /// Version of loadgen.
    pub(crate) loadgen: String,
    /// End of the run, seconds since 1970.
    pub(crate) ended_unix_s: u64,
    /// Kernel release and version.
    pub(crate) kernel: String,
    /// CPU model.
    pub(crate) cpu: String,
    /// Cores that loadgen may run on.
    pub(crate) cores: usize,
    /// Frequency governor of the first core, where there is one.
    pub(crate) governor: Option<String>,
    /// Mitigations of CPU faults that are on.
    pub(crate) mitigations: Vec<String>,
    /// Memory of the host, bytes.
    pub(crate) memory_bytes: u64,
    /// Hard limit of descriptors, which bounds the sockets of one ring.
    pub(crate) descriptors_max: Option<u64>,
    /// Settings of the kernel that matter to many sockets, as `/proc/sys` has them.
    pub(crate) settings: Vec<(String, String)>,
}

const SETTINGS: [&str; 8] = [
    "net/core/somaxconn",
    "net/core/netdev_max_backlog",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_mem",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_wmem",
    "fs/file-max",
];

impl Environment {
    /// Of this process, now.
    pub(crate) fn read() -> Self {
        let file = |path: &str| {
            let text = read_to_string(path).ok()?;
            let words: Vec<_> = text.split_whitespace().collect();
            Some(words.join(" "))
        };
        let field = |path: &str, name: &str| {
            let text = read_to_string(path).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let kernel = rustix::system::uname();
        let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
        let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        let ended = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            loadgen: env!("CARGO_PKG_VERSION").to_owned(),
            ended_unix_s: ended.map_or(0, |since| since.as_secs()),
            kernel: [kernel.release(), kernel.version()]
                .map(|part| part.to_string_lossy().into_owned())
                .join(" "),
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, |cores| cores.get()),
            governor: file("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            mitigations: mitigations(),
            memory_bytes: memory_kib * 1024,
            descriptors_max: getrlimit(Resource::Nofile).maximum,
            settings: SETTINGS
                .iter()
                .filter_map(|name| {
                    let value = file(&format!("/proc/sys/{name}"))?;
                    Some((name.replace('/', "."), value))
                })
                .collect(),
        }
    }
}

fn mitigations() -> Vec<String> {
    let Ok(directory) = std::fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else {
        return Vec::new();
    };
    let mut all: Vec<_> = directory
        .flatten()
        .filter_map(|entry| {
            let state = read_to_string(entry.path()).ok()?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let state = state.trim();
            state
                .starts_with("Mitigation")
                .then(|| format!("{name}: {state}"))
        })
        .collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_a_kernel_cores_and_memory() {
        let here = Environment::read();
        assert!(!here.kernel.is_empty() && here.cores > 0);
        assert!(here.memory_bytes > 1 << 20 && here.settings.len() > 3);
    }
}

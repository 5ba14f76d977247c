//! The real broker, from the binary that `cargo build` puts beside loadgen.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running broker with one shard that takes anybody; killed with the test.
pub(crate) struct Ringcast {
    pub(crate) child: Child,
    pub(crate) listen: String,
    pub(crate) upstream: String,
    #[allow(dead_code, reason = "not every test asks its HTTP API")]
    pub(crate) admin: String,
}

impl Ringcast {
    /// With these options besides.
    pub(crate) fn start(more: &[&str]) -> Self {
        let (listen, upstream, admin) = (free_address(), free_address(), free_address());
        let child = Command::new(binary())
            .args(["serve", "--shards", "1", "--allow-anonymous"])
            .args(["--listen", &listen, "--upstream", &upstream])
            .args(["--admin", &admin])
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let broker = Self {
            child,
            listen,
            upstream,
            admin,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(&broker.upstream).is_err() {
            assert!(Instant::now() < deadline, "the broker is not up");
            std::thread::sleep(Duration::from_millis(20));
        }
        broker
    }
}

impl Drop for Ringcast {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The broker's binary, which `cargo test --workspace` builds beside ours.
fn binary() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_loadgen")).with_file_name("ringcast");
    assert!(
        path.is_file(),
        "no broker beside loadgen: run `cargo build` first"
    );
    path
}

/// An address that nobody listens at.
pub(crate) fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

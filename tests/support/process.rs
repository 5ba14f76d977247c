//! The broker as the built binary, where a process matters.

use super::{Metrics, PATIENCE, until};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};

/// A broker process; killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    /// What it wrote to standard error before the banner.
    noted: String,
    /// Where clients connect.
    pub(crate) clients: SocketAddr,
    /// Where upstream services connect.
    pub(crate) upstream: SocketAddr,
    /// Where operators connect.
    pub(crate) admin: SocketAddr,
}

impl Process {
    /// Starts `ringcast serve` with these flags; all three addresses must be among them.
    pub(crate) fn serve(flags: &str) -> Self {
        Self::adopt(ringcast(&format!("serve {flags}")))
    }

    /// As [`Process::serve`], under a limit of open descriptors.
    pub(crate) fn serve_with_descriptors(descriptors: usize, flags: &str) -> Self {
        let binary = env!("CARGO_BIN_EXE_ringcast");
        let line = format!("ulimit -n {descriptors} && exec {binary} serve {flags}");
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).stdin(Stdio::null());
        Self::adopt(shell)
    }

    fn adopt(mut command: Command) -> Self {
        let command = command.stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (line, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for text in stderr.lines().map_while(Result::ok) {
                let _ = line.send(text);
            }
        });
        let mut noted = String::new();
        let mut address = |name: &str| -> SocketAddr {
            loop {
                let text = lines
                    .recv_timeout(PATIENCE)
                    .unwrap_or_else(|_| panic!("no line `{name}` in the banner"));
                noted.push_str(&text);
                let mut words = text.split_whitespace();
                if words.next() == Some(name) {
                    let url = words.next().expect("an address");
                    let bare = url
                        .rsplit("//")
                        .next()
                        .and_then(|rest| rest.split('/').next());
                    return bare.and_then(|text| text.parse().ok()).expect("an address");
                }
            }
        };
        let [clients, upstream, admin] = ["clients", "upstream", "admin"].map(&mut address);
        Self {
            child,
            lines,
            noted,
            clients,
            upstream,
            admin,
        }
    }

    /// Runs `ringcast` with arguments that make it end by itself.
    pub(crate) fn run(arguments: &str) -> Output {
        let mut child = ringcast(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary");
        let status = wait(&mut child);
        let mut output = Output {
            status,
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        stdout.unwrap().read_to_end(&mut output.stdout).unwrap();
        stderr.unwrap().read_to_end(&mut output.stderr).unwrap();
        output
    }

    /// What it wrote to standard error before and in the banner.
    pub(crate) fn noted(&self) -> String {
        self.noted.clone()
    }

    /// Process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal");
    }

    /// Waits for the end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// What it has written to standard error since the banner. After its end.
    pub(crate) fn rest_of_stderr(&self) -> String {
        self.lines.iter().collect::<Vec<_>>().join("\n")
    }

    /// The metrics of this moment.
    pub(crate) fn metrics(&self) -> Metrics {
        Metrics::fetch(self.admin)
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> usize {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.id())).unwrap();
        let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4096
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ringcast(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringcast"));
    command.args(arguments.split_whitespace());
    command.stdin(Stdio::null());
    command
}

fn wait(child: &mut Child) -> ExitStatus {
    until("the end of the process", || {
        child.try_wait().expect("a child")
    })
}

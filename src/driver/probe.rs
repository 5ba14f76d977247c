//! Why io_uring is not available, in the operator's words: which gate is closed and what opens it.

use std::fmt;
use std::io;

/// A ring could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// The kernel lacks a feature of 6.1.
    KernelTooOld,
    /// There is no such system call: an old kernel, or a sandbox that hides it.
    NoSystemCall,
    /// `kernel.io_uring_disabled` is 2, or 1 and this user is not in the group.
    DisabledBySysctl {
        /// The value of the sysctl.
        value: u8,
    },
    /// A seccomp filter refuses the call; container runtimes do by default.
    RefusedBySeccomp,
    /// RLIMIT_MEMLOCK is too small for rings and buffers.
    MemoryLock,
    /// The file table is larger than RLIMIT_NOFILE.
    TooManySlots {
        /// Slots asked for.
        slots: u32,
    },
    /// Anything else; the errno.
    Other {
        /// Positive errno.
        errno: i32,
    },
}

impl SetupError {
    pub(super) fn ring(error: io::Error) -> Self {
        let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
        Self::classify(
            &error,
            sysctl.ok().and_then(|text| text.trim().parse().ok()),
        )
    }

    pub(super) fn table(error: io::Error, slots: u32) -> Self {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::EINVAL) => Self::TooManySlots { slots },
            _ => Self::classify(&error, None),
        }
    }

    pub(super) fn buffers(error: io::Error) -> Self {
        Self::classify(&error, None)
    }

    fn classify(error: &io::Error, sysctl: Option<u8>) -> Self {
        match (error.raw_os_error().unwrap_or(0), sysctl) {
            (libc::EPERM, Some(value @ 1..)) => Self::DisabledBySysctl { value },
            (libc::EPERM | libc::EACCES, _) => Self::RefusedBySeccomp,
            (libc::ENOSYS, _) => Self::NoSystemCall,
            (libc::EINVAL, _) => Self::KernelTooOld,
            (libc::ENOMEM, _) => Self::MemoryLock,
            (errno, _) => Self::Other { errno },
        }
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KernelTooOld => {
                write!(
                    f,
                    "io_uring here lacks features of Linux 6.1. Run `uname -r`; Ringcast needs 6.1 or newer."
                )
            }
            Self::NoSystemCall => {
                write!(
                    f,
                    "there is no io_uring system call. Ringcast needs Linux 6.1 or newer, outside gVisor."
                )
            }
            Self::DisabledBySysctl { value } => write!(
                f,
                "io_uring is disabled: kernel.io_uring_disabled = {value}. Open it with \
                 `sysctl -w kernel.io_uring_disabled=1` and `sysctl -w kernel.io_uring_group=$(id -g)`, \
                 or for everybody with `sysctl -w kernel.io_uring_disabled=0`."
            ),
            Self::RefusedBySeccomp => write!(
                f,
                "io_uring is refused though the sysctl allows it: a seccomp filter. In a container allow \
                 io_uring_setup, io_uring_enter and io_uring_register in the profile \
                 (`docker run --security-opt seccomp=PROFILE.json`)."
            ),
            Self::MemoryLock => write!(
                f,
                "no memory for the ring: RLIMIT_MEMLOCK is too small. Raise it with `ulimit -l unlimited` \
                 or `LimitMEMLOCK=infinity` in the unit."
            ),
            Self::TooManySlots { slots } => write!(
                f,
                "a file table of {slots} slots exceeds the descriptor limit. Raise it with `ulimit -n {slots}` or \
                 `LimitNOFILE={slots}` in the unit, or use more shards: the limit is per ring."
            ),
            Self::Other { errno } => {
                write!(
                    f,
                    "io_uring cannot be set up: {}",
                    io::Error::from_raw_os_error(*errno)
                )
            }
        }
    }
}

impl std::error::Error for SetupError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_closed_gate_is_named_with_what_opens_it() {
        let classify =
            |errno, sysctl| SetupError::classify(&io::Error::from_raw_os_error(errno), sysctl);
        for (error, command) in [
            (
                classify(libc::EPERM, Some(2)),
                "sysctl -w kernel.io_uring_disabled",
            ),
            (classify(libc::EPERM, Some(0)), "--security-opt seccomp"),
            (classify(libc::ENOMEM, Some(0)), "ulimit -l"),
            (classify(libc::EINVAL, Some(0)), "uname -r"),
            (classify(libc::ENOSYS, None), "6.1"),
            (
                SetupError::table(io::Error::from_raw_os_error(libc::EMFILE), 9),
                "ulimit -n 9",
            ),
        ] {
            assert!(
                error.to_string().contains(command),
                "{error:?} does not tell `{command}`"
            );
        }
    }
}

//! The state file: what a drained process leaves for the next one, so that clients recover over a
//! restart.
//!
//! A file is used once. It is put aside before the shards start and written anew when they have
//! drained: a process that is killed leaves none, because positions that its clients have seen and a
//! file does not know would make recoveries lie. A file that cannot be used is put aside as well, and
//! nothing of it is used.

use crate::room::state::{self, Header, Saved};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The bytes of a state file that was put aside.
#[derive(Debug)]
pub(super) struct Loaded {
    path: PathBuf,
    aside: PathBuf,
    bytes: Vec<u8>,
}

/// Why there is a file and nothing is taken from it.
#[derive(Debug)]
pub(super) struct Unusable {
    path: PathBuf,
    aside: PathBuf,
    why: String,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}; starting empty, the file is kept as {}",
            self.path.display(),
            self.why,
            self.aside.display()
        )
    }
}

/// Takes the state file, if there is one.
///
/// # Errors
/// [`Unusable`] when there is a file of which nothing can be used; it is out of the way then.
pub(super) fn take(path: &Path) -> Result<Option<Loaded>, Unusable> {
    let unusable = |aside: &Path, why: String| Unusable {
        path: path.into(),
        aside: aside.into(),
        why,
    };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(path, error.to_string())),
    };
    let checked = state::read(&bytes).map(|_| ());
    let aside = with_suffix(path, if checked.is_ok() { "used" } else { "refused" });
    if let Err(error) = fs::rename(path, &aside) {
        // Left where it is it would be read again by the next process.
        return Err(unusable(path, format!("it cannot be renamed: {error}")));
    }
    match checked {
        Ok(()) => Ok(Some(Loaded {
            path: path.into(),
            aside,
            bytes,
        })),
        Err(error) => Err(unusable(&aside, error.to_string())),
    }
}

impl Loaded {
    /// What the file says.
    pub(super) fn saved(&self) -> Option<Saved<'_>> {
        state::read(&self.bytes).ok()
    }

    /// Puts the file back: the process did not start after all.
    pub(super) fn put_back(&self) {
        let _ = fs::rename(&self.aside, &self.path);
    }
}

/// Writes a state file so that there is a whole one or none, whatever happens meanwhile.
pub(super) fn write(path: &Path, header: &Header, sections: Vec<Vec<u8>>) -> io::Result<()> {
    let draft = with_suffix(path, "draft");
    let mut file = File::create(&draft)?;
    for piece in state::file(header, sections) {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    fs::rename(&draft, path)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

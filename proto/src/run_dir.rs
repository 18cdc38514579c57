//! Where a group lives in the file system: `DIR/NAME/{api.sock,admin.sock,log/}`.
//!
//! The one who starts a group takes the first directory that can be written, or holds one of the group's
//! name that can; everyone else the first
//! that holds a group of that name. `AXOLOTL_DIR` replaces the list, `AXOLOTL` the default name.

use rustix::fs::{Access, access};
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The name of a group that nobody named.
pub const DEFAULT_NAME: &str = "axolotl";
/// The longest name in bytes: a socket's path has 107 (unix(7)).
pub const NAME_MAX: usize = 32;

/// A group's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    dir: PathBuf,
    name: String,
}

/// The group's name from the environment.
pub fn default_name() -> String {
    std::env::var("AXOLOTL").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| DEFAULT_NAME.into())
}

/// True for names that are a path component of their own and fit a socket's path.
pub fn sound_name(name: &str) -> bool {
    let visible = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(visible) && !name.starts_with('.')
}

fn candidates() -> Vec<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
    if let Some(dir) = set("AXOLOTL_DIR") {
        return vec![dir.into()];
    }
    let user = rustix::process::geteuid().as_raw();
    let mut list = vec![PathBuf::from("/run/axolotl")];
    list.extend(set("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("axolotl")));
    list.push(format!("/tmp/axolotl-{user}").into());
    list
}

impl RunDir {
    /// The place of group `name` in `dir`.
    pub fn at(dir: &Path, name: &str) -> RunDir {
        RunDir { dir: dir.to_owned(), name: name.to_owned() }
    }

    /// Where a running group `name` is; `None` when there is none that we can see.
    pub fn find(name: &str) -> Option<RunDir> {
        let places = candidates().into_iter().map(|dir| RunDir::at(&dir, name));
        sound_name(name).then_some(places)?.into_iter().find(|place| place.api().exists())
    }

    /// Where a new group `name` goes: the first directory that can be made and written.
    ///
    /// # Errors
    /// When there is none, or the name is no name.
    pub fn create(name: &str) -> io::Result<RunDir> {
        if !sound_name(name) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("'{name}' is no name for a group"),
            ));
        }
        let list = candidates();
        for dir in &list {
            // What can't be made can't be written either: the next line sees it.
            let _ = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir);
            let place = RunDir::at(dir, name);
            // Or somebody has made the group's own directory for us there, as a service manager does.
            let is_ours = |dir: &Path| access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok();
            if is_ours(dir) || is_ours(&place.path()) {
                std::fs::create_dir_all(place.logs())?;
                return Ok(place);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("no writable run directory among {list:?}"),
        ))
    }

    /// The directory that holds groups, without the name.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The group's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The group's own directory.
    pub fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// The socket of clients.
    pub fn api(&self) -> PathBuf {
        self.path().join("api.sock")
    }

    /// The socket of netctl.
    pub fn admin(&self) -> PathBuf {
        self.path().join("admin.sock")
    }

    /// The directory of the log files.
    pub fn logs(&self) -> PathBuf {
        self.path().join("log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_path_component() {
        for good in ["axolotl", "a", "a.b-c_1"] {
            assert!(sound_name(good), "{good}");
        }
        for bad in ["", ".", "..", ".x", "a/b", "a b", "ä", &"x".repeat(NAME_MAX + 1)] {
            assert!(!sound_name(bad), "{bad}");
        }
    }
}

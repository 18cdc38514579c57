//! Where a group's socket is found: the run directory of `AXOLOTL_DIR`, else the first usual one
//! that has the group.

use std::env;
use std::io;
use std::path::PathBuf;

/// Names the group, when nobody else does.
pub(crate) const NAME_VARIABLE: &str = "AXOLOTL";
const NAME_DEFAULT: &str = "axolotl";
const DIRECTORY_VARIABLE: &str = "AXOLOTL_DIR";
const SOCKET: &str = "api.sock";

/// The group's name in this process's environment.
pub(crate) fn name() -> String {
    env::var(NAME_VARIABLE).ok().filter(|name| !name.is_empty()).unwrap_or_else(|| NAME_DEFAULT.to_owned())
}

/// The path of the group's `api.sock`.
///
/// # Errors
/// `InvalidInput` for a name that is no file name, `NotFound` when no directory has the group.
pub(crate) fn socket_of(name: &str) -> io::Result<PathBuf> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a name of a group"));
    }
    let set = env::var_os(DIRECTORY_VARIABLE).filter(|dir| !dir.is_empty());
    let directories = match set {
        Some(dir) => vec![PathBuf::from(dir)],
        None => usual(),
    };
    directories.into_iter().map(|dir| dir.join(name).join(SOCKET)).find(|path| path.exists()).ok_or_else(
        || io::Error::new(io::ErrorKind::NotFound, format!("no running group of the name {name}")),
    )
}

/// Where `run.sh up` puts groups, in its order.
fn usual() -> Vec<PathBuf> {
    let own = env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    let uid = rustix::process::getuid().as_raw();
    [
        Some(PathBuf::from("/run/axolotl")),
        own.map(|dir| PathBuf::from(dir).join("axolotl")),
        Some(PathBuf::from(format!("/tmp/axolotl-{uid}"))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_not_a_path() {
        for name in ["", "..", "a/b", ".hidden"] {
            assert_eq!(socket_of(name).map_err(|error| error.kind()), Err(io::ErrorKind::InvalidInput));
        }
    }
}

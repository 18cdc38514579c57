//! A network namespace of one's own: a program runs itself again inside one. Root needs a network
//! namespace only (SCHED_FIFO is not to be had in a user namespace); everybody else also gets a user
//! namespace. Whatever is made inside vanishes with the last process in it.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};

/// Set inside the namespace.
const INSIDE: &str = "AXOLOTL_TESTS_PRIVATE_NET";

/// Where the caller is.
#[derive(Debug)]
pub enum PrivateNet {
    /// Inside: go on.
    Inside,
    /// It ran again inside and has ended.
    Ran(ExitStatus),
    /// This machine does not allow it, with the reason.
    Forbidden(String),
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    match rustix::process::geteuid().is_root() {
        true => command.arg("--net"),
        false => command.args(["--user", "--map-root-user", "--net"]),
    };
    command
}

/// Whether namespaces and TAP devices can be had here; the reason when not.
pub fn available() -> Result<(), String> {
    let probe = unshare().args(["ip", "tuntap", "add", "dev", "axlprobe", "mode", "tap"]).output();
    match probe {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(e) => Err(format!("unshare: {e}")),
    }
}

/// Runs this program again with `args` in a private network, unless it already is in one.
///
/// # Errors
/// When it can't be started although namespaces work.
pub fn enter(args: impl IntoIterator<Item = OsString>) -> io::Result<PrivateNet> {
    if std::env::var_os(INSIDE).is_some() {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
        return match up.success() {
            true => Ok(PrivateNet::Inside),
            false => Err(io::Error::other("cannot set lo up in the private network")),
        };
    }
    if let Err(reason) = available() {
        return Ok(PrivateNet::Forbidden(reason));
    }
    Ok(PrivateNet::Ran(inside(args)?.status()?))
}

/// This program with `args`, in a private network of its own.
fn inside(args: impl IntoIterator<Item = OsString>) -> io::Result<Command> {
    let mut command = unshare();
    command.arg(std::env::current_exe()?).args(args).env(INSIDE, "1");
    Ok(command)
}

/// For a test by name: runs `body` in a private network, or says why not.
///
/// # Panics
/// When the test fails inside.
pub fn test(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        enter([]).expect("a private network with a loopback");
        return body();
    }
    if let Err(reason) = available() {
        return super::skip(name, &format!("no private network: {reason}"), false);
    }
    let args = ["--exact", name, "--nocapture", "--test-threads=1"];
    let inner = inside(args.map(OsString::from)).and_then(|mut command| {
        // Indented, so that the inner runner's sums are not taken for the outer one's.
        let mut inner = command.stdout(Stdio::piped()).spawn()?;
        let said = BufReader::new(inner.stdout.take().expect("piped"));
        let mut ran = true;
        for line in said.lines().map_while(Result::ok) {
            ran &= line != "running 0 tests";
            println!("    {line}");
        }
        Ok((ran, inner.wait()?))
    });
    let (ran, status) = inner.expect("a program that can run itself");
    assert!(ran, "no test is called {name}");
    assert!(status.success(), "{name} failed in its private network: {status}");
}

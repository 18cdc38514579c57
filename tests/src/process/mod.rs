//! Groups of real processes: started, watched, killed and always cleaned away.
//!
//! * [`private_net`]: a network namespace of one's own, for root and for ordinary users;
//! * [`other_net`]: a second one, the far end of a cable to an interface of the kernel;
//! * [`raw_link`]: frames as they are, onto an interface and off it;
//! * [`access_port`]: the kernel's stack in a VLAN of an interface;
//! * [`beside`]: the stack and the kernel on one interface;
//! * [`autopsy`]: what is known of a group when a test gives it up;
//! * [`caught`]: what `netctl capture` has written;
//! * [`exec`]: unmodified programs, and kills of the servers behind them;
//! * [`group`]: a group in a run directory of its own, ended with its owner;
//! * [`strike`]: kills at random times, each judged by what the connections saw;
//! * [`raw_client`]: a client without a library, to be used wrongly;
//! * [`silence`]: how long a kill is felt;
//! * [`skip`]: what to do on a machine that can't.

pub mod access_port;
pub mod autopsy;
pub mod beside;
pub mod caught;
pub mod exec;
pub mod group;
pub mod other_net;
pub mod private_net;
pub mod raw_client;
pub mod raw_link;
pub mod silence;
pub mod strike;

use std::io::Write;
use std::time::{Duration, Instant};

/// Names a reason for which the calling test can't do its work here. It is told to the suite, which
/// counts it; where everything is asked for (`CI=true`) and the machine could do it, it is a failure.
///
/// # Panics
/// When `CI` is `true` and `able` says that the machine can do this.
pub fn skip(test: &str, reason: &str, able: bool) {
    assert!(
        !(able && std::env::var_os("CI").is_some_and(|ci| ci == "true")),
        "{test} was skipped although this machine can run it: {reason}"
    );
    println!("SKIPPED {test}: {reason}");
    if let Some(path) = std::env::var_os("AXOLOTL_SKIPS") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        // Without the file the line above still says it.
        let _ = file.and_then(|mut file| writeln!(file, "{test}: {reason}"));
    }
}

/// A seed that nobody chose; the caller prints it.
pub fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

/// Asks `ready` every 2 ms until it says yes; false when `patience` is over.
pub fn wait_until(patience: Duration, mut ready: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !ready() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

//! Packet scripts: dialogues between a scripted remote and a real `stack` in virtual time.
//!
//! A script is a text under `tests/scripts`. Numbers of the remote count from its SYN, those of the
//! stack from the stack's; 1 is the first octet of each stream. A line is one of
//!
//! ```text
//! rfc 9293 §3.10.7.4 first step      which section it is about; the first line, may stand again
//! set mtu 1500 | isn 4294967295 | family 4    family 4: about IPv4 alone
//! set tcp_syncookies 2                a tunable, by the end of its name
//! listen [BACKLOG] | connect          a client call that opens; `accept` takes what was accepted
//! < SA 0 ack 1 win 1000 <mss 1460, sack, ts 5 1, ws 7>     the remote sends
//! > A 1+1000 ack 1 win 500 <nosack>   the stack sends this next, and has already sent it
//! in 190..210 > A 1+1000              the stack is silent until then (milliseconds from now)
//! silent [300]                        it sends nothing (for so long)
//! wait 20                             time passes; what is sent meanwhile is to be expected next
//! write 100 | shut | close | abort | read [N] | readshut | accept | no accept
//! urge 10                             writes, and the last octet is urgent (MSG_OOB)
//! maxseg N | lowat N | congestion cubic|reno|bbr
//! nodelay on | cork on | quickack on | keepalive IDLE INTERVAL COUNT | usertimeout MS | rcvbuf N
//! icmp TYPE CODE [VALUE] seq N        an ICMP error that quotes the stack's segment with that number
//! flow 400 rtt 20 [rate 1000] [most 1200] [lose 30]     the remote takes and acknowledges what comes, for so
//!                                     long; over a bottleneck (octets a millisecond), past a hole for larger
//!                                     segments, without the 30th
//! die                                 the stack dies and its successor takes over
//! ? state ESTABLISHED | error 104 | end | no end | received 10 | acked 10 | records 2 | sent | gone
//! ? largest 1299                      octets of the largest segment that the last flow let through
//! ? urgent 5 | no urgent | room 4000      the place of the remote's urgent octet; what may be written
//! ```
//!
//! Flags are `S F R P A U E W` (E is ECE, W is CWR), `-` for none; P is compared only where it is written.
//! A place is `SEQ`, `SEQ+LEN`. An option that is written is compared; `<>` says that there is none at all,
//! `nosack`, `nots` that this one is missing, `raw HEX` gives octets. `urg N`, `badsum`, `ce`, `ect0` and
//! `port N` may follow a segment. Payload is a pattern of stream offsets, checked both ways.
//!
//! [`run`] runs a text; it fails with the line where the stack and the script part.

mod flow;
pub mod fuzzed;
mod host;
pub mod judge;
mod parse;
mod play;
mod wire;

pub use parse::{Fault, Script};
pub use play::{run, run_v6};

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the scripts.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts")
}

/// All scripts by their path below the folder, without the ending.
///
/// # Panics
/// When they can't be read.
pub fn read_all() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(inner).expect("a folder of scripts") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "pkt") {
                let name = path.strip_prefix(folder()).expect("inside").with_extension("");
                found.insert(name.to_string_lossy().into_owned(), fs::read_to_string(path).expect("a text"));
            }
        }
    }
    found
}

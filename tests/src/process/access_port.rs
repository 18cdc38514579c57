//! The kernel's stack as a member of a VLAN (IEEE 802.1Q): with an interface of the kernel's own kind where the
//! kernel has it, else at the port of a switch that takes the tag off and puts it on.
//!
//! ```text
//!   group ── TAP (trunk) ◄─── tagged ───► switch ◄─── untagged ───► veth ── the kernel's address
//! ```

use super::other_net::ip;
use super::raw_link::{RawLink, TaggedLink, close_checksums};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a thread of the switch listens before it looks whether it shall end.
const TURN: Duration = Duration::from_millis(50);
/// Bytes of the two link addresses before a tag.
const ADDRESSES_LEN: usize = 12;

/// The kernel in a VLAN, until this is dropped.
#[derive(Debug)]
pub struct AccessPort {
    done: Arc<AtomicBool>,
    carriers: Vec<JoinHandle<io::Result<()>>>,
}

impl AccessPort {
    /// Gives the kernel `addr` (with its length) in VLAN `vlan` of the interface `trunk`.
    ///
    /// # Errors
    /// When ip(8) fails, or there is no right to packet sockets.
    pub fn open(trunk: &str, vlan: u16, addr: &str) -> io::Result<AccessPort> {
        let done = Arc::new(AtomicBool::new(false));
        let own = format!("axlp{vlan}");
        if ip(&format!("link add link {trunk} name {own} type vlan id {vlan}")).is_ok() {
            ip(&format!("addr add {addr} dev {own}"))?;
            ip(&format!("link set {own} up"))?;
            return Ok(AccessPort { done, carriers: Vec::new() });
        }
        let port = format!("axlq{vlan}");
        ip(&format!("link add {own} type veth peer name {port}"))?;
        close_checksums(&own)?;
        ip(&format!("addr add {addr} dev {own}"))?;
        ip(&format!("link set {port} up"))?;
        ip(&format!("link set {own} up"))?;
        let (from_trunk, to_port) = (TaggedLink::open(trunk)?, RawLink::sender(&port)?);
        let (from_port, to_trunk) = (TaggedLink::open(&port)?, RawLink::sender(trunk)?);
        let (ends, ends_too) = (Arc::clone(&done), Arc::clone(&done));
        let inwards = std::thread::spawn(move || {
            carry(&ends, &from_trunk, &to_port, |tag, frame| (tag == Some(vlan)).then(|| frame.to_vec()))
        });
        let outwards = std::thread::spawn(move || {
            carry(&ends_too, &from_port, &to_trunk, |tag, frame| {
                let tag = tag.is_none().then(|| [[0x81, 0], vlan.to_be_bytes()].concat())?;
                Some([&frame[..ADDRESSES_LEN], &tag, &frame[ADDRESSES_LEN..]].concat())
            })
        });
        Ok(AccessPort { done, carriers: vec![inwards, outwards] })
    }
}

/// Carries frames one way until `done`.
fn carry(
    done: &AtomicBool,
    from: &TaggedLink,
    to: &RawLink,
    through: impl Fn(Option<u16>, &[u8]) -> Option<Vec<u8>>,
) -> io::Result<()> {
    while !done.load(Ordering::Relaxed) {
        let Some((tag, frame)) = from.receive(TURN)? else { continue };
        if let Some(frame) = through(tag.map(|tag| tag & 0x0fff), &frame) {
            // As a cable: what the other side does not take is lost.
            let _ = to.send(&frame);
        }
    }
    Ok(())
}

impl Drop for AccessPort {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        for carrier in self.carriers.drain(..) {
            let ended = carrier.join();
            if !std::thread::panicking() {
                ended.expect("a switch without panics").expect("a switch that can hear");
            }
        }
    }
}

//! The software address filter: which frames the stack wants to see.
//!
//! For devices without one of their own. Asked once a frame with its first six bytes.

use proto::control::notices::{FilterNotice, MULTICAST_MAX, Mac};

const BROADCAST: Mac = [0xff; 6];

/// What the addresses of IPv4's groups begin with: RFC 1112 §6.4.
const IPV4_GROUPS: [u8; 3] = [0x01, 0x00, 0x5e];

/// The filter of one interface.
#[derive(Debug, Clone)]
pub struct AddressFilter {
    own: Mac,
    promiscuous: bool,
    all_multicast: bool,
    ipv4_groups: bool,
    multicast: Vec<Mac>,
}

impl AddressFilter {
    /// Frames to `own` and to all.
    ///
    /// Until netd has said which groups it wants, all multicast passes: a stack that asks for nothing
    /// loses nothing by it.
    pub fn new(own: Mac) -> Self {
        AddressFilter {
            own,
            promiscuous: false,
            all_multicast: true,
            ipv4_groups: true,
            multicast: Vec::new(),
        }
    }

    /// From now on what netd says.
    pub fn set(&mut self, notice: FilterNotice) {
        self.promiscuous = notice.promiscuous;
        self.all_multicast = notice.all_multicast || notice.multicast.len() > MULTICAST_MAX;
        self.ipv4_groups = notice.ipv4_groups;
        self.multicast = notice.multicast;
        self.multicast.truncate(MULTICAST_MAX);
        self.multicast.sort_unstable();
    }

    /// The interface's own address.
    pub fn own(&self) -> Mac {
        self.own
    }

    /// Every frame is wanted.
    pub fn promiscuous(&self) -> bool {
        self.promiscuous
    }

    /// The groups that are wanted; `None` for more than can be listed.
    pub fn groups(&self) -> Option<&[Mac]> {
        (!self.all_multicast && !self.ipv4_groups).then_some(&self.multicast)
    }

    /// Whether a frame to `destination` is wanted.
    pub fn passes(&self, destination: &Mac) -> bool {
        // IEEE 802.3 clause 3.2.3: the first bit on the wire says that it is a group's address.
        let group = destination[0] & 1 != 0;
        *destination == self.own
            || self.promiscuous
            || *destination == BROADCAST
            || (group
                && (self.all_multicast
                    || (self.ipv4_groups && destination.starts_with(&IPV4_GROUPS))
                    || self.multicast.binary_search(destination).is_ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];
    const GROUP: Mac = [1, 0, 0x5e, 0, 0, 1];

    #[test]
    fn what_is_ours_passes() {
        let mut filter = AddressFilter::new(OWN);
        assert!(filter.passes(&OWN) && filter.passes(&BROADCAST) && filter.passes(&GROUP));
        assert!(!filter.passes(&OTHER));
        filter.set(FilterNotice::default());
        assert!(filter.passes(&OWN) && filter.passes(&BROADCAST) && !filter.passes(&GROUP));
        filter.set(FilterNotice { multicast: vec![[1, 1, 1, 1, 1, 1], GROUP], ..FilterNotice::default() });
        assert!(filter.passes(&GROUP) && !filter.passes(&[1, 0, 0x5e, 0, 0, 2]) && !filter.passes(&OTHER));
        filter.set(FilterNotice { ipv4_groups: true, ..FilterNotice::default() });
        assert!(filter.passes(&GROUP) && !filter.passes(&[0x33, 0x33, 0, 0, 0, 1]));
        filter.set(FilterNotice { promiscuous: true, ..FilterNotice::default() });
        assert!(filter.passes(&OTHER));
    }

    #[test]
    fn more_groups_than_a_filter_holds_let_all_through() {
        let mut filter = AddressFilter::new(OWN);
        let multicast = (0..=MULTICAST_MAX as u8).map(|n| [3, 0, 0, 0, 0, n]).collect();
        filter.set(FilterNotice { multicast, ..FilterNotice::default() });
        assert!(filter.passes(&GROUP));
    }
}

//! What is wished of a socket of datagrams beyond flags: groups and their sources, filters, errors
//! ([`proto::arena::wishes`]); and what is said of each datagram that it sends.

use crate::UdpSocket;
use crate::calls::Origin;
use crate::socket::{Kind, Receiving, Socket};
use crate::wait::lock;
use proto::PeerCorrupt;
use proto::arena::record::{ErrorNote, HEADER_SIZE, Header, NOTE_BYTES, Said, mark, record_size};
use proto::arena::wishes::{Granted, Wishes};
pub use proto::arena::wishes::{Instruction, Membership, Mode};
use proto::zone;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Errors of datagrams that wait to be asked for; more are forgotten, the oldest first.
const ERRORS_MAX: usize = 64;

/// What a socket wishes, and where that lies.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// What holds.
    wishes: Wishes,
    /// Where it lies.
    pages: Vec<u32>,
    /// Its number.
    number: u16,
}

/// The wishes of a socket and what comes of them.
#[derive(Debug, Default)]
pub(crate) struct Wished {
    book: Mutex<Book>,
    /// Whether errors were wished for.
    hears_errors: AtomicBool,
    /// Those that came.
    errors: Mutex<VecDeque<SentError>>,
}

/// What became of a datagram that was sent (IP_RECVERR, `struct sock_extended_err`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentError {
    /// What happened.
    pub note: ErrorNote,
    /// Where the datagram was sent.
    pub remote: SocketAddr,
    /// What is known of its payload.
    pub payload: Vec<u8>,
}

/// How datagrams are sent, unless one says otherwise itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// Hops to one host (IP_TTL, IPV6_UNICAST_HOPS); `None` leaves it to the stack.
    pub hops: Option<u8>,
    /// Differentiated services (IP_TOS, IPV6_TCLASS).
    pub tos: u8,
    /// Hops to a group (IP_MULTICAST_TTL, IPV6_MULTICAST_HOPS).
    pub group_hops: u8,
    /// What is for a group is for this host's members too (IP_MULTICAST_LOOP).
    pub group_loop: bool,
    /// The interface that datagrams to groups leave by (IP_MULTICAST_IF); 0 leaves it to the routes.
    pub group_interface: u32,
    /// Their source, where it was chosen with the interface.
    pub group_source: Option<Ipv4Addr>,
    /// Bytes of payload of each datagram of one call (UDP_SEGMENT); 0 for one datagram.
    pub segment: u16,
    /// Without checksums (SO_NO_CHECK, UDP_NO_CHECK6_TX).
    pub unsummed: bool,
    /// Whole or not at all (IP_PMTUDISC_DO).
    pub whole: bool,
    /// Routers may cut them (IP_PMTUDISC_DONT).
    pub may_cut: bool,
    /// Of a raw socket: they begin with the IP header (IP_HDRINCL).
    pub with_header: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Manner {
            hops: None,
            tos: 0,
            group_hops: 1,
            group_loop: true,
            group_interface: 0,
            group_source: None,
            segment: 0,
            unsummed: false,
            whole: false,
            may_cut: false,
            with_header: false,
        }
    }
}

impl Manner {
    /// What is said of a datagram of `len` bytes.
    pub(crate) fn said(&self, group: bool, segment: u16, len: usize, origin: Origin) -> Said {
        let when = |condition: bool, mark: u16| if condition { mark } else { 0 };
        let hops = origin.hops.or(if group { Some(self.group_hops) } else { self.hops });
        let marks = when(self.unsummed, mark::UNSUMMED)
            | when(self.whole, mark::WHOLE)
            | when(self.may_cut, mark::MAY_CUT)
            | when(self.with_header, mark::WITH_HEADER)
            | when(!self.group_loop, mark::NOT_HERE)
            | when(hops.is_some(), mark::HOPS_SAID);
        Said {
            hop_limit: hops.unwrap_or(0),
            tos: origin.tos.unwrap_or(self.tos),
            segment: if usize::from(segment) < len { segment } else { 0 },
            marks,
            ..Said::default()
        }
    }
}

impl Socket {
    /// Changes what is wished, and waits until the stack has said whether it holds.
    ///
    /// # Errors
    /// ENOBUFS without a free page; what the stack refuses with: ENODEV for an interface that there is not,
    /// EINVAL for what makes no sense. What was wished before holds then.
    pub(crate) fn change_wishes(&self, change: impl FnOnce(&mut Wishes) -> io::Result<()>) -> io::Result<()> {
        if self.kind != Kind::Datagram {
            return Err(Errno::OPNOTSUPP.into());
        }
        let mut book = lock(&self.wished.book);
        let mut wishes = book.wishes.clone();
        change(&mut wishes)?;
        if wishes == book.wishes {
            return Ok(());
        }
        match self.publish_wishes(&mut book, &wishes) {
            Ok(()) => {
                self.wished.hears_errors.store(wishes.errors, Ordering::Release);
                book.wishes = wishes;
                Ok(())
            }
            Err(refusal) => {
                // A stack that begins anew must find what holds, not what was refused.
                let before = book.wishes.clone();
                self.publish_wishes(&mut book, &before)?;
                Err(refusal)
            }
        }
    }

    /// Takes up what a predecessor wished.
    pub(crate) fn take_up_wishes(&self) -> io::Result<()> {
        let (inner, (number, first)) = (&self.session.inner, self.mine().wishes());
        if number == 0 {
            return Ok(());
        }
        let at = (&inner.memory, &inner.geometry, first);
        let wishes = Wishes::load(at.0, at.1, at.2).map_err(|rule| inner.corrupt(rule))?;
        let pages = Wishes::pages_of(at.0, at.1, at.2).map_err(|rule| inner.corrupt(rule))?;
        self.wished.hears_errors.store(wishes.errors, Ordering::Release);
        *lock(&self.wished.book) = Book { wishes, pages, number: number as u16 };
        Ok(())
    }

    /// What is wished now.
    pub(crate) fn wishes(&self) -> Wishes {
        lock(&self.wished.book).wishes.clone()
    }

    fn publish_wishes(&self, book: &mut Book, wishes: &Wishes) -> io::Result<()> {
        let inner = &self.session.inner;
        let bytes = wishes.encode().map_err(|_| Errno::NOBUFS)?;
        let mut pages = Vec::new();
        {
            let mut free = lock(&inner.pages);
            for _ in 0..Wishes::pages(bytes.len()) {
                match free.take() {
                    Some(page) => pages.push(page),
                    None => {
                        free.give_back(&mut pages);
                        return Err(Errno::NOBUFS.into());
                    }
                }
            }
        }
        Wishes::store(&inner.memory, &inner.geometry, &pages, &bytes);
        book.number = book.number.checked_add(1).unwrap_or(1);
        let (number, first) = (book.number, pages[0]);
        let mut old = std::mem::replace(&mut book.pages, pages);
        self.set_line(|line| line.set_wishes(number.into(), first))?;
        let granted = |part: &Socket| {
            let granted = Granted::from_word(part.look().map_or(0, |line| line.wishes()));
            (granted.number == number).then_some(granted.errno)
        };
        // Every shard must have looked before the pages of the last wishes are anybody else's.
        let outcome = inner.wait_for(&self.waiters, None, || {
            let answers: Option<Vec<u16>> = self.parts().map(granted).collect();
            Ok(answers.map(|answers| answers.into_iter().find(|errno| *errno != 0)))
        })?;
        lock(&inner.pages).give_back(&mut old);
        inner.pages_freed();
        match outcome.flatten() {
            None => Ok(()),
            Some(errno) => Err(io::Error::from_raw_os_error(errno.into())),
        }
    }

    /// The pages of what was wished, when the socket is closed.
    pub(crate) fn take_wish_pages(&mut self) -> Vec<u32> {
        let book = self.wished.book.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::take(&mut book.pages)
    }

    /// Puts errors that stand first in the receive stream where they wait to be asked for. Returns whether
    /// any waits.
    pub(crate) fn set_errors_aside(&self) -> bool {
        let leader = self.leader();
        let wished = leader.as_ref().map_or(&self.wished, |leader| &leader.wished);
        if !wished.hears_errors.load(Ordering::Acquire) {
            return !lock(&wished.errors).is_empty();
        }
        let _ = self.receiving(|receiving, mut available, _| {
            while let Some(header) = self.error_at_head(receiving, available)? {
                available -= self.take_error_record(wished, receiving, &header)?;
            }
            Ok(())
        });
        !lock(&wished.errors).is_empty()
    }

    fn error_at_head(&self, receiving: &Receiving<'_>, available: usize) -> io::Result<Option<Header>> {
        if available < HEADER_SIZE {
            return Ok(None);
        }
        let mut bytes = [0; HEADER_SIZE];
        receiving.copy(0, &mut bytes)?;
        Ok(Header::from_bytes(&bytes)
            .filter(|header| header.is(mark::ERROR) && record_size(header.len as usize) <= available))
    }

    fn take_error_record(
        &self,
        wished: &Wished,
        receiving: &mut Receiving<'_>,
        header: &Header,
    ) -> io::Result<usize> {
        let len = header.len as usize;
        let Some(known) = len.checked_sub(NOTE_BYTES) else {
            return Err(self.session.inner.corrupt(PeerCorrupt::new("an error without its note")));
        };
        let (mut note, mut payload) = ([0; NOTE_BYTES], vec![0; known]);
        receiving.copy(HEADER_SIZE, &mut note)?;
        receiving.copy(HEADER_SIZE + NOTE_BYTES, &mut payload)?;
        receiving.consume(record_size(len))?;
        let mut errors = lock(&wished.errors);
        if errors.len() == ERRORS_MAX {
            errors.pop_front();
        }
        let remote = zone::to_client(header.remote);
        errors.push_back(SentError { note: ErrorNote::from_bytes(&note), remote, payload });
        Ok(record_size(len))
    }
}

impl UdpSocket {
    /// What became of a datagram that was sent, one at a time (MSG_ERRQUEUE); `None` when nothing is known.
    ///
    /// # Errors
    /// When the session is over.
    pub fn next_sent_error(&self) -> io::Result<Option<SentError>> {
        self.socket.parts().for_each(|part| {
            part.set_errors_aside();
        });
        Ok(lock(&self.socket.wished.errors).pop_front())
    }

    /// Whether errors of datagrams that were sent are kept (IP_RECVERR, IPV6_RECVERR).
    ///
    /// # Errors
    /// As [`UdpSocket::join_group`].
    pub fn set_sent_errors(&self, kept: bool) -> io::Result<()> {
        self.wish(|wishes| {
            wishes.errors = kept;
            Ok(())
        })
    }

    /// Whether they are.
    pub fn sent_errors(&self) -> bool {
        self.socket.wishes().errors
    }

    /// Several datagrams of one flow may come in one call (UDP_GRO): [`crate::Datagram::segment`] says how
    /// long each is.
    ///
    /// # Errors
    /// As [`UdpSocket::join_group`].
    pub fn set_runs(&self, runs: bool) -> io::Result<()> {
        self.wish(|wishes| {
            wishes.runs = runs;
            Ok(())
        })
    }

    /// Takes datagrams of IPv6 without a checksum (UDP_NO_CHECK6_RX).
    ///
    /// # Errors
    /// As [`UdpSocket::join_group`].
    pub fn set_takes_unsummed(&self, takes: bool) -> io::Result<()> {
        self.wish(|wishes| {
            wishes.unsummed = takes;
            Ok(())
        })
    }

    /// Whether datagrams to groups come that other sockets have joined (IP_MULTICAST_ALL), as they do by
    /// default.
    ///
    /// # Errors
    /// As [`UdpSocket::join_group`].
    pub fn set_all_groups(&self, all: bool) -> io::Result<()> {
        self.wish(|wishes| {
            wishes.all_groups = all;
            Ok(())
        })
    }

    /// Takes what comes in by one interface alone (SO_BINDTODEVICE); 0 for all.
    ///
    /// # Errors
    /// ENODEV.
    pub fn set_device(&self, index: u32) -> io::Result<()> {
        self.wish(|wishes| {
            wishes.device = index;
            Ok(())
        })
    }

    /// Takes only what a program of the classic BPF machine lets pass (SO_ATTACH_FILTER); none takes all.
    ///
    /// # Errors
    /// EINVAL for a program that can't be.
    pub fn set_filter(&self, program: &[Instruction]) -> io::Result<()> {
        self.wish(|wishes| {
            wishes.filter = program.to_vec();
            Ok(())
        })
    }

    /// What is wished is changed as a whole, or stays as it was.
    fn wish(&self, change: impl FnOnce(&mut Wishes) -> io::Result<()>) -> io::Result<()> {
        self.socket.change_wishes(change)
    }

    /// Joins a group (IP_ADD_MEMBERSHIP, IPV6_JOIN_GROUP, MCAST_JOIN_GROUP) on the interface of that index, 0
    /// where the routes lead.
    ///
    /// # Errors
    /// EADDRINUSE when it is joined there already, EINVAL for what is no group, ENODEV, ENOBUFS for more than
    /// 20.
    pub fn join_group(&self, group: IpAddr, interface: u32) -> io::Result<()> {
        self.wish(|wishes| {
            if find(wishes, group, interface).is_some() {
                return Err(Errno::ADDRINUSE.into());
            }
            let group = scoped(group, interface);
            wishes.memberships.push(Membership {
                group,
                interface,
                mode: Mode::Exclude,
                sources: Vec::new(),
            });
            Ok(())
        })
    }

    /// Leaves it, with all that was said of its sources.
    ///
    /// # Errors
    /// EADDRNOTAVAIL when it was not joined.
    pub fn leave_group(&self, group: IpAddr, interface: u32) -> io::Result<()> {
        self.wish(|wishes| {
            let at = find(wishes, group, interface).ok_or(Errno::ADDRNOTAVAIL)?;
            wishes.memberships.remove(at);
            Ok(())
        })
    }

    /// Takes what a source sends to a group (IP_ADD_SOURCE_MEMBERSHIP, MCAST_JOIN_SOURCE_GROUP).
    ///
    /// # Errors
    /// EINVAL when the group was joined for every source, EADDRNOTAVAIL when the source is taken already, and
    /// as [`UdpSocket::join_group`].
    pub fn join_source(&self, group: IpAddr, source: IpAddr, interface: u32) -> io::Result<()> {
        self.wish(|wishes| {
            let membership = match find(wishes, group, interface) {
                Some(at) => &mut wishes.memberships[at],
                None => {
                    let group = scoped(group, interface);
                    let fresh = Membership { group, interface, mode: Mode::Include, sources: Vec::new() };
                    wishes.memberships.push(fresh);
                    wishes.memberships.last_mut().expect("just pushed")
                }
            };
            if membership.mode != Mode::Include {
                return Err(Errno::INVAL.into());
            }
            put(&mut membership.sources, source)
        })
    }

    /// Takes it no longer (IP_DROP_SOURCE_MEMBERSHIP); with the last one the group is left.
    ///
    /// # Errors
    /// EADDRNOTAVAIL when it was not taken, EINVAL when the group was joined for every source.
    pub fn leave_source(&self, group: IpAddr, source: IpAddr, interface: u32) -> io::Result<()> {
        self.wish(|wishes| {
            let at = find(wishes, group, interface).ok_or(Errno::ADDRNOTAVAIL)?;
            let membership = &mut wishes.memberships[at];
            if membership.mode != Mode::Include {
                return Err(Errno::INVAL.into());
            }
            take(&mut membership.sources, source)?;
            if membership.sources.is_empty() {
                wishes.memberships.remove(at);
            }
            Ok(())
        })
    }

    /// Of a group that was joined for every source, takes all but this one (IP_BLOCK_SOURCE), or this one
    /// again (IP_UNBLOCK_SOURCE).
    ///
    /// # Errors
    /// EADDRNOTAVAIL when nothing would change, EINVAL when the group was not joined for every source.
    pub fn block_source(
        &self,
        group: IpAddr,
        source: IpAddr,
        interface: u32,
        blocked: bool,
    ) -> io::Result<()> {
        self.wish(|wishes| {
            let at = find(wishes, group, interface).ok_or(Errno::INVAL)?;
            let membership = &mut wishes.memberships[at];
            if membership.mode != Mode::Exclude {
                return Err(Errno::INVAL.into());
            }
            match blocked {
                true => put(&mut membership.sources, source),
                false => take(&mut membership.sources, source),
            }
        })
    }

    /// Says all that there is to say of a membership at once (MCAST_MSFILTER).
    ///
    /// # Errors
    /// EINVAL when the group was not joined.
    pub fn set_sources(
        &self,
        group: IpAddr,
        interface: u32,
        mode: Mode,
        sources: &[IpAddr],
    ) -> io::Result<()> {
        self.wish(|wishes| {
            let at = find(wishes, group, interface).ok_or(Errno::INVAL)?;
            if mode == Mode::Include && sources.is_empty() {
                wishes.memberships.remove(at);
            } else {
                let membership = &mut wishes.memberships[at];
                (membership.mode, membership.sources) = (mode, sources.to_vec());
            }
            Ok(())
        })
    }

    /// Joins a group of IPv4 where the routes lead, as std; a named interface is not looked for by its address.
    ///
    /// # Errors
    /// As [`UdpSocket::join_group`]; EOPNOTSUPP when an interface is named by its address.
    pub fn join_multicast_v4(&self, group: &Ipv4Addr, interface: &Ipv4Addr) -> io::Result<()> {
        if !interface.is_unspecified() {
            return Err(Errno::OPNOTSUPP.into());
        }
        self.join_group(IpAddr::V4(*group), 0)
    }

    /// Leaves it.
    ///
    /// # Errors
    /// As [`UdpSocket::leave_group`].
    pub fn leave_multicast_v4(&self, group: &Ipv4Addr, _interface: &Ipv4Addr) -> io::Result<()> {
        self.leave_group(IpAddr::V4(*group), 0)
    }

    /// Joins a group of IPv6, as std.
    ///
    /// # Errors
    /// As [`UdpSocket::join_group`].
    pub fn join_multicast_v6(&self, group: &Ipv6Addr, interface: u32) -> io::Result<()> {
        self.join_group(IpAddr::V6(*group), interface)
    }

    /// Leaves it.
    ///
    /// # Errors
    /// As [`UdpSocket::leave_group`].
    pub fn leave_multicast_v6(&self, group: &Ipv6Addr, interface: u32) -> io::Result<()> {
        self.leave_group(IpAddr::V6(*group), interface)
    }
}

/// A group of a link has its zone, so that the routes know which link is meant.
fn scoped(group: IpAddr, interface: u32) -> IpAddr {
    match interface.checked_sub(2).and_then(|number| u16::try_from(number).ok()) {
        Some(number) => zone::ip_with(group, zone::of_interface(number)),
        None => group,
    }
}

fn find(wishes: &Wishes, group: IpAddr, interface: u32) -> Option<usize> {
    let group = scoped(group, interface);
    wishes.memberships.iter().position(|one| (one.group, one.interface) == (group, interface))
}

fn put(sources: &mut Vec<IpAddr>, source: IpAddr) -> io::Result<()> {
    if sources.contains(&source) {
        return Err(Errno::ADDRNOTAVAIL.into());
    }
    sources.push(source);
    Ok(())
}

fn take(sources: &mut Vec<IpAddr>, source: IpAddr) -> io::Result<()> {
    let at = sources.iter().position(|known| *known == source).ok_or(Errno::ADDRNOTAVAIL)?;
    sources.remove(at);
    Ok(())
}

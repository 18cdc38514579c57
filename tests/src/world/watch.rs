//! The watches: what a netd sends, publishes and commits, held against each other by somebody who
//! trusts none of it. They parse the frames that leave, read the connection table as another
//! process would, and know from the oracle which byte stands where.
//!
//! | watch | invariant |
//! |---|---|
//! | an acknowledged byte is committed, and lies in the arena | INV-T1 |
//! | a sent byte is committed as sent; a freed byte as acknowledged; sent bytes are the stream's | INV-T2 |
//! | the advertised right edge never moves left, stands in the cell; no reset for what lives | INV-T4 |
//! | timestamps never go back; no record is lost that has not ended; TIME-WAIT stays | INV-T5 |
//! | a resumed netd speaks first; ranges that were kept are still acknowledged | INV-T6 |
//! | an operation has one record | INV-T9 |

use super::host::Host;
use super::plans::Shared;
use super::records::{self, Record, Table};
use crate::oracle::{ConnId, Side, Stream};
use netd::tcp::segment::Segment;
use netd::tcp::seq::{Position, SeqNum};
use netd::wire::checksum::Sum;
use netd::wire::ethernet::{EtherType, EthernetHeader, HEADER_LEN as ETHERNET_LEN};
use netd::wire::ipv4::{IpProtocol, Ipv4Header};
use netd::wire::ipv6::{self, Ipv6Header};
use netd::wire::quote::Quote;
use netd::wire::tcp::TcpHeader;
use proto::Instant;
use proto::arena::line::{ClientLine, StackLine};
use proto::arena::place::{Direction, pieces};
use proto::hard::conns::{Kind, TcpState};
use proto::id::OpId;
use proto::shm::Memory;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Our and the remote's end.
type Ends = (SocketAddr, SocketAddr);

/// What is remembered of one connection's wire.
#[derive(Debug, Clone, Default)]
struct Wire {
    edge: Option<u64>,
    ack: u64,
    timestamp: Option<u32>,
    sent: u64,
    /// Ranges that stood in the record at the last death, not yet acknowledged again.
    kept: Vec<(u64, u64)>,
    /// It has to speak before this time.
    speak_before: Option<Instant>,
    /// It was resumed half-open: its SYN is to be sent again, unless the ACK of it was there already.
    half_open: bool,
}

/// What is remembered of one record's commits.
#[derive(Debug, Clone)]
struct Seen {
    record: Record,
    conn: Option<(ConnId, Side)>,
    wire: Wire,
    /// Bytes of the receive stream that were found in the arena.
    verified: u64,
    time_wait_since: Option<Instant>,
}

/// The watches of one host.
#[derive(Debug)]
pub struct Watch {
    host: usize,
    seen: BTreeMap<(u32, u32), Seen>,
    ops: HashMap<OpId, (u32, u32)>,
    /// Connections that came to their end here, FIN for FIN: a late segment of theirs is answered
    /// as one of a stranger.
    ended: HashSet<Ends>,
    /// Connections that got a cookie.
    cookies: HashSet<Ends>,
    table: Table,
    /// Records that were corrupted: they must not come back (INV-T7).
    condemned: HashSet<(u32, u32)>,
    /// The keys, as the first netd made them.
    keys: Option<Vec<u8>>,
    /// Segments that carried bytes which had been sent before.
    pub retransmissions: u64,
    /// Segments that carried bytes.
    pub segments: u64,
    /// Resumes after which connections had to speak first.
    pub resumes: u64,
    /// Commits that kept ranges out of order.
    pub kept_ranges: u64,
    /// How long a resumed connection may be silent; `None` when the cable is too bad to say.
    pub patience: Option<Duration>,
    /// Print every segment.
    pub trace: bool,
}

/// SACK blocks that fit beside timestamps (RFC 2018 §3).
const BLOCKS_WITH_TIMESTAMPS: usize = 3;
/// TIME-WAIT lasts this long (`netd::tcp::control_block::TIME_WAIT`).
const TIME_WAIT: Duration = netd::tcp::control_block::TIME_WAIT;
/// Between two questions for a neighbour: RFC 4861 §10, RETRANS_TIMER.
const ASKED_AGAIN: Duration = Duration::from_secs(1);

fn fail(shared: &Shared, what: String) {
    shared.oracle.borrow_mut().fail(what);
}

fn name_of(shared: &Shared, (local, remote): Ends) -> Option<(ConnId, Side)> {
    let directory = shared.directory.borrow();
    let active = directory.find(local, remote).map(|conn| (conn, Side::Active));
    active.or_else(|| directory.find(remote, local).map(|conn| (conn, Side::Passive)))
}

/// Whether a connection may be gone: it was allowed to fail, or both its clients are done with it.
fn may_be_gone(shared: &Shared, conn: Option<(ConnId, Side)>) -> bool {
    let Some((conn, _)) = conn else { return true };
    let oracle = shared.oracle.borrow();
    let conn = oracle.conn(conn);
    conn.may_fail.is_some() || conn.may_be_refused || (conn.active.closed && conn.passive.closed)
}

/// Whether the accepting client is done with a connection.
fn passive_is_done(shared: &Shared, conn: Option<(ConnId, Side)>) -> bool {
    conn.is_some_and(|(conn, _)| shared.oracle.borrow().conn(conn).passive.closed)
}

/// The stream offset up to which `record` says bytes were received.
fn received(record: &Record) -> u64 {
    let state = &record.state;
    match record.is_connection() {
        true => state.rcv_nxt.saturating_sub(1 + u64::from(state.fin_received)),
        false => state.rcv_nxt,
    }
}

impl Watch {
    /// The watches of host number `host`.
    pub fn new(host: usize) -> Watch {
        Watch {
            host,
            seen: BTreeMap::new(),
            ops: HashMap::new(),
            ended: HashSet::new(),
            cookies: HashSet::new(),
            table: Table::default(),
            condemned: HashSet::new(),
            keys: None,
            retransmissions: 0,
            segments: 0,
            resumes: 0,
            kept_ranges: 0,
            patience: Some(Duration::from_millis(20)),
            trace: std::env::var_os("AXOLOTL_TRACE").is_some(),
        }
    }

    fn say(&self, what: &str, ends: Ends) -> String {
        format!("{what} (host {}, {} to {})", self.host, ends.0, ends.1)
    }

    /// A frame leaves netd.
    pub fn frame(&mut self, now: Instant, frame: &[u8], host: &Host, shared: &Shared) {
        let Ok(ethernet) = EthernetHeader::parse(frame) else {
            return fail(shared, "a frame without a sound link header leaves".into());
        };
        let packet = &frame[ETHERNET_LEN..];
        let parsed = match ethernet.ethertype {
            EtherType::IPV4 => Ipv4Header::parse(packet, packet.len())
                .map(|ip| (ip.pair(), ip.protocol, usize::from(ip.header_len)..usize::from(ip.total_len))),
            EtherType::IPV6 => Ipv6Header::parse(packet, packet.len()).map(|ip| {
                let end = ipv6::HEADER_LEN + usize::from(ip.payload_len);
                (ip.pair(), ip.next_header, ipv6::HEADER_LEN..end)
            }),
            _ => return,
        };
        let Ok((pair, protocol, payload)) = parsed else {
            return fail(shared, "a packet without a sound header leaves".into());
        };
        let payload = &packet[payload];
        match protocol {
            IpProtocol::ICMP => self.icmp(payload, host, shared),
            IpProtocol::ICMPV6 => self.icmpv6(payload, host, shared),
            IpProtocol::TCP => match TcpHeader::parse(payload, payload.len(), &pair) {
                Ok(header) => match header.verify(Sum::of(payload)) {
                    Ok(header) => {
                        let local = SocketAddr::new(pair.src(), header.src_port);
                        let remote = SocketAddr::new(pair.dst(), header.dst_port);
                        let bytes = &payload[usize::from(header.header_len)..];
                        self.segment(now, (local, remote), &header.segment, bytes, host, shared);
                    }
                    Err(_) => fail(shared, "a segment with a wrong checksum leaves".into()),
                },
                Err(_) => fail(shared, "a segment without a sound header leaves".into()),
            },
            _ => {}
        }
    }

    /// INV-T4: no ICMP unreachable about a connection that has a record.
    fn icmp(&mut self, message: &[u8], host: &Host, shared: &Shared) {
        const UNREACHABLE: u8 = 3;
        const QUOTE_AT: usize = 8;
        if message.first() != Some(&UNREACHABLE) || message.len() < QUOTE_AT + 24 {
            return;
        }
        let quote = &message[QUOTE_AT..];
        let at = usize::from(quote[0] & 15) * 4;
        if quote[9] != IpProtocol::TCP.0 || quote.len() < at + 4 {
            return;
        }
        let addr = |at: usize| IpAddr::from([quote[at], quote[at + 1], quote[at + 2], quote[at + 3]]);
        let port = |at: usize| u16::from_be_bytes([quote[at], quote[at + 1]]);
        let ends = (SocketAddr::new(addr(16), port(at + 2)), SocketAddr::new(addr(12), port(at)));
        self.told_of(ends, host, shared);
    }

    /// As [`Watch::icmp`], of IPv6.
    fn icmpv6(&mut self, message: &[u8], host: &Host, shared: &Shared) {
        const UNREACHABLE: u8 = 1;
        const QUOTE_AT: usize = 8;
        let quote = match message {
            [UNREACHABLE, ..] => message.get(QUOTE_AT..).and_then(|quote| Quote::parse_v6(quote).ok()),
            _ => None,
        };
        let Some(quote) = quote.filter(|quote| quote.protocol == IpProtocol::TCP) else { return };
        let local = SocketAddr::new(quote.pair.dst(), quote.dst_port());
        self.told_of((local, SocketAddr::new(quote.pair.src(), quote.src_port())), host, shared);
    }

    fn told_of(&mut self, ends: Ends, host: &Host, shared: &Shared) {
        if self.find(ends, host).is_some() {
            fail(shared, self.say("INV-T4: ICMP unreachable for a connection that lives", ends));
        }
    }

    fn find(&mut self, ends: Ends, host: &Host) -> Option<Record> {
        self.table.look(&host.conns);
        let ours = |record: &&Record| record.is_connection() && record.flow() == ends;
        // A connection in TIME-WAIT may share its ends with its successor.
        let last = |record: &&Record| record.state.tcp_state == TcpState::TimeWait;
        self.table.records().filter(ours).min_by_key(last).copied()
    }

    fn segment(
        &mut self,
        now: Instant,
        ends: Ends,
        segment: &Segment,
        bytes: &[u8],
        host: &Host,
        shared: &Shared,
    ) {
        let conn = name_of(shared, ends);
        let found = self.find(ends, host);
        if self.trace {
            self.print(now, ends, segment, found.as_ref());
        }
        let gone = may_be_gone(shared, conn);
        if segment.flags.rst() {
            // A connection that ended in order and waits for its client's close has only a record; an old
            // SYN may have begun a half-open one in its place (RFC 9293 §3.5, figure 9).
            let over = match &found {
                Some(record) => match record.state.tcp_state {
                    TcpState::Closed => record.state.error == 0,
                    TcpState::SynReceived => self.ended.contains(&ends),
                    _ => false,
                },
                None => self.ended.contains(&ends),
            };
            if self.cookies.contains(&ends) {
                // Nothing is kept of a cookie: an ACK of it that comes too late, before the data, or
                // when a second SYN has found room, is a stranger's.
                if let Some((conn, _)) = conn {
                    shared.oracle.borrow_mut().may_fail(conn, "a cookie was not good any more");
                }
            } else if !gone && !over {
                fail(shared, self.say("INV-T4: a reset for a connection that lives", ends));
            }
            return;
        }
        // A cookie needs no record, and its number is not that of a record it may stand beside: one that
        // is over, or one that a second SYN has found room for.
        let (greeting, over) =
            (segment.flags.syn() && segment.flags.ack(), [TcpState::Closed, TcpState::SynReceived]);
        let beside = |record: &Record| {
            record.opening.iss != segment.seq.get() && over.contains(&record.state.tcp_state)
        };
        if greeting && found.as_ref().is_none_or(beside) {
            self.cookies.insert(ends);
            return;
        }
        let Some(record) = found else {
            // What has ended leaves no record.
            if !gone && !self.ended.contains(&ends) {
                fail(shared, self.say("a segment of a connection without a record leaves", ends));
            }
            return;
        };
        let key = (record.index, record.serial);
        self.note(now, record, shared);
        let mut wire = self.seen[&key].wire.clone();
        wire.speak_before = None;
        let state = &record.state;
        let reference = Position::new(state.snd_una);
        let iss = SeqNum::new(record.opening.iss);
        // INV-T2: what is sent stands in the cell as sent.
        match Position::near(segment.seq, iss, reference) {
            Some(start) => {
                let end = start.get() + segment.seq_len();
                if end > state.snd_una + u64::from(state.snd_max) {
                    let what = format!(
                        "INV-T2: sent up to {end}, committed {}",
                        state.snd_una + u64::from(state.snd_max)
                    );
                    fail(shared, self.say(&what, ends));
                }
                if !bytes.is_empty() {
                    self.segments += 1;
                    if start.get() < wire.sent {
                        self.retransmissions += 1;
                    }
                    if let Some((conn, side)) = conn
                        && let Some(wrong) = (Stream { conn, writer: side }).differs(start.offset(), bytes)
                        && !gone
                    {
                        fail(shared, self.say(&format!("INV-T2: a wrong byte at {wrong} is sent"), ends));
                    }
                }
                wire.sent = wire.sent.max(end);
            }
            None => fail(shared, self.say("a sequence number before the SYN", ends)),
        }
        if segment.flags.ack() {
            self.acknowledgement(&mut wire, ends, segment, &record, gone, shared);
        }
        // INV-T5: the clock of the timestamps goes on over restarts.
        if let Some(timestamps) = segment.options.timestamps {
            if let Some(before) = wire.timestamp
                && SeqNum::new(timestamps.value).before(SeqNum::new(before))
            {
                fail(shared, self.say("INV-T5: a timestamp goes back", ends));
            }
            wire.timestamp = Some(timestamps.value);
        }
        self.seen.get_mut(&key).expect("noted above").wire = wire;
    }

    fn print(&self, now: Instant, ends: Ends, segment: &Segment, record: Option<&Record>) {
        let near = |number, initial: Option<u32>, reference| {
            initial.and_then(|first| Position::near(number, SeqNum::new(first), Position::new(reference)))
        };
        let state = record.map(|record| record.state);
        let (una, nxt) = state.map_or((0, 0), |state| (state.snd_una, state.rcv_nxt));
        println!(
            "{}.{:06} host {}: {} to {} {:?} seq {:?} len {} ack {:?} window {} sack {} {:?}",
            now.millis(),
            now.nanos() % 1_000_000,
            self.host,
            ends.0,
            ends.1,
            segment.flags,
            near(segment.seq, record.map(|record| record.opening.iss), una),
            segment.payload_len,
            near(segment.ack, record.and_then(Record::irs), nxt),
            segment.window,
            segment.options.sack.len(),
            state.map(|state| state.tcp_state),
        );
    }

    /// INV-T1, INV-T4, INV-T6: what an acknowledgement says is committed.
    fn acknowledgement(
        &self,
        wire: &mut Wire,
        ends: Ends,
        segment: &Segment,
        record: &Record,
        gone: bool,
        shared: &Shared,
    ) {
        let state = &record.state;
        let Some(irs) = record.irs() else {
            return fail(shared, self.say("INV-T1: a SYN is acknowledged that is not committed", ends));
        };
        let irs = SeqNum::new(irs);
        let Some(ack) = Position::near(segment.ack, irs, Position::new(state.rcv_nxt)) else {
            return fail(shared, self.say("an acknowledgement before the SYN", ends));
        };
        let ack = ack.get();
        if ack > state.rcv_nxt {
            let what = format!("INV-T1: {ack} is acknowledged, {} is committed", state.rcv_nxt);
            fail(shared, self.say(&what, ends));
        }
        if ack < wire.ack {
            let what = format!("INV-T3: {ack} is acknowledged after {}", wire.ack);
            fail(shared, self.say(&what, ends));
        }
        wire.ack = wire.ack.max(ack);
        let scale = match (segment.flags.syn(), record.options()) {
            (false, Some(options)) if options.wscale => options.rcv_wscale,
            _ => 0,
        };
        let edge = ack + (u64::from(segment.window) << scale);
        if state.tcp_state != TcpState::TimeWait && !gone && !state.fin_received {
            // RFC 7323 §2.4: the field counts in units of 2^scale, so that the remote may see up to
            // a unit less than it saw before; what it sends up to the old edge is taken.
            let unit = (1 << scale) - 1;
            if wire.edge.is_some_and(|before| edge + unit < before) {
                let what = format!("INV-T4: the window's edge moves from {:?} to {edge}", wire.edge);
                fail(shared, self.say(&what, ends));
            }
            if edge > state.rcv_nxt + u64::from(state.rcv_edge) {
                let committed = state.rcv_nxt + u64::from(state.rcv_edge);
                let what = format!("INV-T4: the edge {edge} is advertised, {committed} is committed");
                fail(shared, self.say(&what, ends));
            }
            wire.edge = Some(edge.max(wire.edge.unwrap_or(0)));
        }
        // INV-T6: what was kept is told again in the first words.
        if !record.options().is_some_and(|options| options.sack) || segment.flags.syn() {
            return;
        }
        let full = segment.options.sack.len() >= BLOCKS_WITH_TIMESTAMPS;
        for (start, end) in std::mem::take(&mut wire.kept) {
            let covered = segment.options.sack.as_slice().iter().any(|block| {
                let near = |seq| Position::near(seq, irs, Position::new(start)).map_or(0, Position::get);
                near(block.start) <= start && near(block.end) >= end
            });
            if end > ack && !covered && full {
                // More ranges than blocks: those that changed last come first.
                wire.kept.push((start, end));
            } else if end > ack && !covered {
                let what = format!("INV-T6: {start} to {end} was kept and is forgotten");
                fail(shared, self.say(&what, ends));
            }
        }
    }

    fn note(&mut self, now: Instant, record: Record, shared: &Shared) {
        let key = (record.index, record.serial);
        let conn = name_of(shared, record.flow());
        let seen = self.seen.entry(key).or_insert_with(|| Seen {
            record,
            conn,
            wire: Wire::default(),
            verified: 0,
            time_wait_since: None,
        });
        seen.conn = seen.conn.or(conn);
        if record.state.tcp_state == TcpState::TimeWait {
            seen.time_wait_since.get_or_insert(now);
        }
        seen.record = record;
    }

    /// Looks at what is committed and published, at the end of a batch and at every death; `linked` when both
    /// ends of the cable have a nicd.
    pub fn commits(&mut self, now: Instant, host: &Host, linked: bool, shared: &Shared) {
        let mut table = std::mem::take(&mut self.table);
        table.look(&host.conns);
        for record in table.records() {
            let key = (record.index, record.serial);
            match self.seen.get(&key) {
                Some(seen) if seen.record == *record && seen.conn.is_some() => {}
                before => {
                    let before = before.map(|seen| seen.record);
                    self.changed(now, before.as_ref(), record, shared);
                }
            }
            self.published(record, host, shared);
        }
        let gone = |(index, serial): &(u32, u32)| {
            table.get(*index).is_none_or(|record| record.serial != *serial) && !table.is_unreadable(*index)
        };
        let vanished: Vec<(u32, u32)> = self.seen.keys().copied().filter(gone).collect();
        for key in vanished {
            let seen = self.seen.remove(&key).expect("just listed");
            self.vanished(now, &seen, &table, shared);
        }
        self.table = table;
        for seen in self.seen.values_mut() {
            if let Some(before) = seen.wire.speak_before
                && now > before
                && linked
            {
                seen.wire.speak_before = None;
                let state = seen.record.state.tcp_state;
                let answered = seen.wire.half_open && state != TcpState::SynReceived;
                if answered || matches!(state, TcpState::TimeWait | TcpState::Closed) {
                    // It came there meanwhile, and waits to be spoken to, or for its client.
                    continue;
                }
                let what = format!(
                    "INV-T6: host {}: a resumed connection in {:?} is silent: {:?}",
                    self.host,
                    seen.record.state.tcp_state,
                    seen.record.flow()
                );
                shared.oracle.borrow_mut().fail(what);
            }
        }
    }

    fn changed(&mut self, now: Instant, before: Option<&Record>, record: &Record, shared: &Shared) {
        let key = (record.index, record.serial);
        if self.condemned.contains(&key) {
            let what = "INV-T7: a record lives on that had failed its check";
            fail(shared, self.say(what, record.flow()));
        }
        if let Some(before) = before {
            self.compare(before, record, shared);
        }
        if record.opening.op != OpId(0) {
            let first = *self.ops.entry(record.opening.op).or_insert(key);
            if first != key {
                let what = format!("INV-T9: operation {} has a second record", record.opening.op);
                fail(shared, self.say(&what, record.flow()));
            }
        }
        self.note(now, *record, shared);
    }

    /// Two looks at one record: nothing that counts goes back.
    fn compare(&self, before: &Record, now: &Record, shared: &Shared) {
        let (old, new) = (&before.state, &now.state);
        for (what, old, new) in [
            ("rcv.nxt", old.rcv_nxt, new.rcv_nxt),
            ("snd.una", old.snd_una, new.snd_una),
            ("snd.max", old.snd_una + u64::from(old.snd_max), new.snd_una + u64::from(new.snd_max)),
            ("rcv edge", old.rcv_nxt + u64::from(old.rcv_edge), new.rcv_nxt + u64::from(new.rcv_edge)),
        ] {
            if new < old {
                let what = format!("INV-T3: the committed {what} moves from {old} back to {new}");
                fail(shared, self.say(&what, now.flow()));
            }
        }
    }

    /// A record is there no more.
    fn vanished(&mut self, now: Instant, seen: &Seen, table: &Table, shared: &Shared) {
        let record = &seen.record;
        if !record.is_connection() {
            return;
        }
        match record.state.tcp_state {
            TcpState::TimeWait => {
                self.ended.insert(record.flow());
                let since = seen.time_wait_since.unwrap_or(now);
                // RFC 6191: a SYN of the next connection ends it, be that answered with a record or a cookie.
                let reused = table.records().any(|other| other.flow() == record.flow())
                    || self.cookies.contains(&record.flow());
                if now.since(since) + Duration::from_millis(2) < TIME_WAIT && !reused {
                    let what = format!("INV-T5: TIME-WAIT is over after {:?}", now.since(since));
                    fail(shared, self.say(&what, record.flow()));
                }
            }
            TcpState::LastAck | TcpState::Closing => {
                self.ended.insert(record.flow());
            }
            TcpState::Closed if record.state.error == 0 => {
                self.ended.insert(record.flow());
            }
            TcpState::Closed | TcpState::Listen => {}
            // A late copy of a cookie's ACK makes a second connection of one that is over.
            _ if self.cookies.contains(&record.flow())
                && (self.ended.contains(&record.flow())
                    || passive_is_done(shared, seen.conn)
                    || table.records().any(|other| other.flow() == record.flow())) => {}
            state if !may_be_gone(shared, seen.conn) => {
                fail(shared, self.say(&format!("INV-T5: a record in {state:?} is lost"), record.flow()));
            }
            _ => {}
        }
    }

    /// INV-T1, INV-T2: what the line says follows from the cell; what the cell says lies in the arena.
    fn published(&mut self, record: &Record, host: &Host, shared: &Shared) {
        let Some((session, slot, epoch)) = record.place() else { return };
        let Some(vaulted) = host.vault.get(&session) else { return };
        let (arena, geometry) = (&*vaulted.arena, &vaulted.geometry);
        if slot.0 >= geometry.sockets() {
            return fail(shared, format!("a record names place {slot}"));
        }
        let line = StackLine::load(arena, geometry, slot);
        if line.epoch != epoch {
            return;
        }
        if line.received > received(record) {
            let what = format!("INV-T1: {} published, {} committed", line.received, received(record));
            fail(shared, self.say(&what, record.flow()));
        }
        let acked = match record.is_connection() {
            true => record.state.snd_una.saturating_sub(1),
            false => record.state.snd_una,
        };
        if line.acked > acked {
            let what = format!("INV-T2: {} freed, {acked} committed", line.acked);
            fail(shared, self.say(&what, record.flow()));
        }
        let key = (record.index, record.serial);
        let Some((conn, side)) = self.seen.get(&key).and_then(|seen| seen.conn) else { return };
        if record.opening.kind == Kind::TcpListener || !record.is_connection() {
            return;
        }
        let client = ClientLine::load(arena, geometry, slot);
        let consumed = if client.epoch == epoch { client.consumed } else { 0 };
        let stream = Stream { conn, writer: side.other() };
        let from = self.seen[&key].verified.max(consumed);
        let upto = received(record);
        let mut ranges = Vec::new();
        if upto > from {
            ranges.push((from, upto));
        }
        for (distance, len) in record.state.ooo {
            if len > 0 && !record.state.fin_received {
                let start = upto + u64::from(distance);
                ranges.push((start, start + u64::from(len)));
            }
        }
        for (index, (start, end)) in ranges.iter().enumerate() {
            if let Some(wrong) = self.differs(arena, vaulted, slot, stream, *start, *end)
                && !may_be_gone(shared, Some((conn, side)))
            {
                let which = if index == 0 && upto > from { "acknowledged" } else { "kept" };
                let what = format!("INV-T1: byte {wrong} is {which} and not in the arena");
                fail(shared, self.say(&what, record.flow()));
            }
        }
        let seen = self.seen.get_mut(&key).expect("looked at above");
        seen.verified = seen.verified.max(upto);
    }

    fn differs<M: Memory>(
        &self,
        arena: &M,
        vaulted: &super::host::Vaulted,
        slot: proto::id::SlotIndex,
        stream: Stream,
        start: u64,
        end: u64,
    ) -> Option<u64> {
        let direction = Direction::Rx { shard: 0 };
        let mut at = start;
        for piece in pieces(start, (end - start) as usize) {
            let Ok(page) = direction.page(arena, &vaulted.geometry, slot, piece.entry) else {
                return Some(at);
            };
            let mut bytes = vec![0; piece.len];
            arena.read(direction.byte_at(&vaulted.geometry, page, piece.within), &mut bytes);
            if let Some(wrong) = stream.differs(at, &bytes) {
                return Some(wrong);
            }
            at += piece.len as u64;
        }
        None
    }

    /// A record has been corrupted, while no netd runs.
    pub fn condemn(&mut self, record: &Record) -> Option<(ConnId, Side)> {
        let key = (record.index, record.serial);
        self.condemned.insert(key);
        // An operation without an outcome is done again.
        self.ops.remove(&record.opening.op);
        self.seen.remove(&key).and_then(|seen| seen.conn)
    }

    /// netd has died: what it had kept of data out of order must not be forgotten.
    pub fn death(&mut self, host: &Host, shared: &Shared) {
        self.seen.values_mut().for_each(|seen| seen.wire.speak_before = None);
        let (records, _) = records::scan(&host.conns);
        for record in records {
            let Some(seen) = self.seen.get_mut(&(record.index, record.serial)) else { continue };
            if may_be_gone(shared, seen.conn) {
                continue;
            }
            let kept = record.state.ooo.iter().filter(|(_, len)| *len > 0).map(|&(distance, len)| {
                let start = record.state.rcv_nxt + u64::from(distance);
                (start, start + u64::from(len))
            });
            seen.wire.kept = kept.collect();
            self.kept_ranges += seen.wire.kept.len() as u64;
        }
    }

    /// There is a nicd again at `host`: who has not spoken meanwhile can do so from now on. One that has asked
    /// where the other host is, which had none, asks again first.
    pub fn linked(&mut self, now: Instant, host: usize) {
        let Some(patience) = self.patience else { return };
        let patience = if host == self.host { patience } else { patience + ASKED_AGAIN };
        for before in self.seen.values_mut().filter_map(|seen| seen.wire.speak_before.as_mut()) {
            *before = now + patience;
        }
    }

    /// A netd has started: it finds the keys of the first one (INV-T5), and its connections are the
    /// first to speak (INV-T6).
    pub fn resumed(&mut self, now: Instant, host: &Host, shared: &Shared) {
        let mut keys = vec![0; host.secrets.size()];
        host.secrets.peek(0, &mut keys);
        if *self.keys.get_or_insert_with(|| keys.clone()) != keys {
            fail(shared, format!("INV-T5: host {}: the keys are others after a restart", self.host));
        }
        let (records, _) = records::scan(&host.conns);
        for record in records.iter().filter(|record| record.is_connection()) {
            let speaks = !matches!(record.state.tcp_state, TcpState::TimeWait | TcpState::Closed);
            if let Some(seen) = self.seen.get_mut(&(record.index, record.serial)).filter(|_| speaks) {
                seen.wire.speak_before = self.patience.map(|patience| now + patience);
                seen.wire.half_open = record.state.tcp_state == TcpState::SynReceived;
                self.resumes += 1;
            }
        }
    }

    /// Connections that have only a cookie here: the ACK of it was lost or found no room, and a client
    /// that has nothing to say waits for ever (RFC 4987 §3.6).
    pub fn only_cookies(&self, host: &Host, shared: &Shared) {
        let (records, _) = records::scan(&host.conns);
        for ends in self.cookies.iter().filter(|ends| !records.iter().any(|r| r.flow() == **ends)) {
            let mut oracle = shared.oracle.borrow_mut();
            if let Some((conn, Side::Passive)) = name_of(shared, *ends)
                && oracle.conn(conn).active.written == 0
            {
                oracle.may_fail(conn, "the ACK of a cookie was lost");
            }
        }
    }

    /// Records that are left.
    pub fn left(&self, host: &Host) -> Vec<Record> {
        records::scan(&host.conns).0
    }
}

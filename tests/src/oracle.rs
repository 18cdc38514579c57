//! Knows every byte: what each end of each connection may read, when its stream ends, and whether
//! it may fail.
//!
//! The bytes of a stream follow from its name and their position, so that nothing needs to be kept.
//! Clients report what they are about to do *before* they do it (a byte may be read from the moment
//! on that its writer might have published it) and what they saw. Everything that must not be is a
//! line in [`Oracle::failures`]; a run is good when there is none and [`Oracle::unfinished`] is empty.

use crate::world::rng::mix;
use std::collections::BTreeMap;
use std::fmt;

/// A connection's name in one world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u32);

/// An end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The one that connected.
    Active,
    /// The one that accepted.
    Passive,
}

impl Side {
    /// The other end.
    pub const fn other(self) -> Side {
        match self {
            Side::Active => Side::Passive,
            Side::Passive => Side::Active,
        }
    }
}

/// One direction of a connection, by who writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    /// The connection.
    pub conn: ConnId,
    /// Who writes.
    pub writer: Side,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "conn {} from {:?}", self.conn.0, self.writer)
    }
}

impl Stream {
    fn key(self) -> u64 {
        mix(u64::from(self.conn.0) << 1 | u64::from(self.writer == Side::Passive))
    }

    /// The bytes from `offset` on.
    pub fn fill(self, offset: u64, out: &mut [u8]) {
        let key = self.key();
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let word = mix(key ^ (at / 8)).to_le_bytes();
            let within = (at % 8) as usize;
            let len = rest.len().min(8 - within);
            let (piece, tail) = rest.split_at_mut(len);
            piece.copy_from_slice(&word[within..within + len]);
            (rest, at) = (tail, at + len as u64);
        }
    }

    /// Where `bytes` differ from the stream's bytes at `offset`; `None` when they don't.
    pub fn differs(self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let mut right = vec![0; bytes.len()];
        self.fill(offset, &mut right);
        let wrong = right.iter().zip(bytes).position(|(right, found)| right != found)?;
        Some(offset + wrong as u64)
    }
}

/// What one end has done and seen.
#[derive(Debug, Clone, Default)]
pub struct End {
    /// Its client has the socket.
    pub handed_over: bool,
    /// Bytes it may have written.
    pub written: u64,
    /// It writes no more: `written` is where the other end's stream ends.
    pub shut: bool,
    /// Bytes it has read.
    pub read: u64,
    /// It has seen the end of its stream.
    pub end: bool,
    /// It was told this errno.
    pub failed: Option<u32>,
    /// It has closed the socket, or died.
    pub closed: bool,
    /// Its client died; how much it wrote is what it had published.
    pub died: bool,
}

/// What is known of a connection.
#[derive(Debug, Clone, Default)]
pub struct Conn {
    /// The end that connected.
    pub active: End,
    /// The end that accepted.
    pub passive: End,
    /// A client asked for an end with loss (aborted, closed with data unread, died), or the test
    /// destroyed the record: it may be reset. What is read before that is still right.
    pub may_fail: Option<&'static str>,
    /// It may never be established: there is no listener.
    pub may_be_refused: bool,
}

impl Conn {
    /// One end.
    pub fn end(&self, side: Side) -> &End {
        match side {
            Side::Active => &self.active,
            Side::Passive => &self.passive,
        }
    }

    fn end_mut(&mut self, side: Side) -> &mut End {
        match side {
            Side::Active => &mut self.active,
            Side::Passive => &mut self.passive,
        }
    }
}

/// The oracle of one world.
#[derive(Debug, Default)]
pub struct Oracle {
    conns: BTreeMap<ConnId, Conn>,
    /// What went wrong, in the order in which it was found; bounded.
    pub failures: Vec<String>,
    /// Bytes that were read and right.
    pub bytes_read: u64,
    /// Streams whose end was seen and right.
    pub ends_seen: u64,
    /// Connections that failed because they were allowed to.
    pub allowed_failures: u64,
    /// Questions for a link address may all be lost, as many frames in a row are: who connects is then told
    /// that the host can't be reached.
    pub questions_lost: bool,
}

/// More failures than these say nothing new.
const FAILURES_MAX: usize = 20;

impl Oracle {
    /// Something that must not be.
    pub fn fail(&mut self, what: impl Into<String>) {
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(what.into());
        }
    }

    /// Makes a connection known.
    pub fn add(&mut self, conn: ConnId) {
        self.conns.entry(conn).or_default();
    }

    /// What is known of a connection.
    pub fn conn(&self, conn: ConnId) -> &Conn {
        &self.conns[&conn]
    }

    /// All connections.
    pub fn conns(&self) -> impl Iterator<Item = (ConnId, &Conn)> {
        self.conns.iter().map(|(id, conn)| (*id, conn))
    }

    fn known(&mut self, conn: ConnId) -> &mut Conn {
        self.conns.get_mut(&conn).expect("connections are made known before they are used")
    }

    /// From now on the connection may be reset.
    pub fn may_fail(&mut self, conn: ConnId, why: &'static str) {
        self.known(conn).may_fail.get_or_insert(why);
    }

    /// The connection may be refused.
    pub fn may_be_refused(&mut self, conn: ConnId) {
        self.known(conn).may_be_refused = true;
    }

    /// A client got the socket: once for each end (INV-T9).
    pub fn handed_over(&mut self, conn: ConnId, side: Side) {
        let end = self.known(conn).end_mut(side);
        if std::mem::replace(&mut end.handed_over, true) {
            self.fail(format!("INV-T9: conn {} {side:?}: handed over twice", conn.0));
        }
    }

    /// An end is about to publish `written` bytes.
    pub fn writes(&mut self, conn: ConnId, side: Side, written: u64) {
        let end = self.known(conn).end_mut(side);
        if written < end.written || end.shut {
            let what = format!("conn {} {side:?}: writes {written} after {end:?}", conn.0);
            return self.fail(what);
        }
        end.written = written;
    }

    /// An end is about to say that it writes no more.
    pub fn shuts(&mut self, conn: ConnId, side: Side) {
        self.known(conn).end_mut(side).shut = true;
    }

    /// An end is about to close its socket. Closing before the end of the stream was read may lose
    /// what the other end sends, and so reset the connection (RFC 9293 §3.10.4, RFC 2525 §2.17).
    pub fn closes(&mut self, conn: ConnId, side: Side) {
        let known = self.known(conn);
        let end = known.end_mut(side);
        (end.shut, end.closed) = (true, true);
        if !end.end {
            known.may_fail.get_or_insert("closed before the end was read");
        }
    }

    /// The client of an end died after it had published `written` bytes; `shut` says whether it had
    /// said that these are all.
    pub fn died(&mut self, conn: ConnId, side: Side, written: u64) {
        let known = self.known(conn);
        known.may_fail.get_or_insert("a client died");
        let end = known.end_mut(side);
        if written > end.written {
            let message = format!("conn {} {side:?}: published {written}, wrote {}", conn.0, end.written);
            return self.fail(message);
        }
        (end.written, end.shut, end.closed, end.died) = (written, true, true, true);
    }

    /// An end read `bytes` at `offset`.
    pub fn reads(&mut self, conn: ConnId, side: Side, offset: u64, bytes: &[u8]) {
        let stream = Stream { conn, writer: side.other() };
        let known = self.known(conn);
        let written = known.end(side.other()).written;
        let end = known.end_mut(side);
        let (read, ended) = (end.read, end.end);
        let upto = offset + bytes.len() as u64;
        end.read = upto;
        self.bytes_read += bytes.len() as u64;
        if offset != read {
            self.fail(format!("{stream}: read at {offset} after {read}"));
        }
        if ended {
            self.fail(format!("{stream}: read beyond its end"));
        }
        if upto > written {
            self.fail(format!("{stream}: read up to {upto}, only {written} were written"));
        }
        if let Some(wrong) = stream.differs(offset, bytes) {
            self.fail(format!("{stream}: wrong byte at {wrong}"));
        }
    }

    /// An end saw the end of its stream.
    pub fn sees_end(&mut self, conn: ConnId, side: Side) {
        let stream = Stream { conn, writer: side.other() };
        let known = self.known(conn);
        let (written, shut) = (known.end(side.other()).written, known.end(side.other()).shut);
        let end = known.end_mut(side);
        let (read, before) = (end.read, std::mem::replace(&mut end.end, true));
        if before {
            return;
        }
        self.ends_seen += 1;
        if !shut {
            self.fail(format!("{stream}: an end at {read} that nobody has written"));
        } else if read != written {
            self.fail(format!("{stream}: an end at {read} instead of {written}"));
        }
    }

    /// An end was told an errno.
    pub fn sees_failure(&mut self, conn: ConnId, side: Side, errno: u32) {
        const ECONNREFUSED: u32 = 111;
        const EHOSTUNREACH: u32 = 113;
        let questions_lost = self.questions_lost;
        let known = self.known(conn);
        if questions_lost && side == Side::Active && errno == EHOSTUNREACH && !known.passive.handed_over {
            known.may_fail.get_or_insert("nobody heard where its host is");
        }
        let allowed = known.may_fail.is_some() || (known.may_be_refused && errno == ECONNREFUSED);
        let end = known.end_mut(side);
        if end.failed.is_some() {
            return;
        }
        end.failed = Some(errno);
        if allowed {
            self.allowed_failures += 1;
        } else {
            self.fail(format!("conn {} {side:?}: failed with errno {errno}", conn.0));
        }
    }

    /// Whether some client may wait for ever: the reset that would end its connection was lost, and
    /// nobody repeats it.
    pub fn may_hang(&self) -> bool {
        let waits = |end: &End| end.handed_over && !end.closed;
        self.conns
            .values()
            .any(|conn| conn.may_fail.is_some() && (waits(&conn.active) || waits(&conn.passive)))
    }

    /// Connections that did not come to their end. One that may fail may also hang: the reset that
    /// ends it can be lost, and nobody repeats it.
    pub fn unfinished(&self) -> Vec<String> {
        let done = |conn: &Conn, side: Side| conn.end(side).end || conn.end(side).failed.is_some();
        let left = self.conns.iter().filter(|(_, conn)| {
            let refused = conn.may_be_refused && conn.active.failed.is_some();
            conn.may_fail.is_none() && !refused && !(done(conn, Side::Active) && done(conn, Side::Passive))
        });
        left.map(|(id, conn)| format!("conn {} is not finished: {conn:?}", id.0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONN: ConnId = ConnId(7);
    const STREAM: Stream = Stream { conn: CONN, writer: Side::Active };

    fn oracle() -> Oracle {
        let mut oracle = Oracle::default();
        oracle.add(CONN);
        oracle
    }

    #[test]
    fn pieces_of_a_stream_agree() {
        let mut whole = [0; 100];
        STREAM.fill(3, &mut whole);
        let mut piece = [0; 21];
        STREAM.fill(20, &mut piece);
        assert_eq!(whole[17..38], piece);
        assert_eq!(STREAM.differs(3, &whole), None);
        whole[50] ^= 1;
        assert_eq!(STREAM.differs(3, &whole), Some(53));
    }

    #[test]
    fn every_wrong_reading_is_noticed() {
        let mut bytes = [0; 10];
        STREAM.fill(0, &mut bytes);
        let read = |act: &dyn Fn(&mut Oracle)| {
            let mut oracle = oracle();
            oracle.writes(CONN, Side::Active, 10);
            act(&mut oracle);
            oracle.failures.len()
        };
        assert_eq!(read(&|o| o.reads(CONN, Side::Passive, 0, &bytes)), 0);
        assert_eq!(read(&|o| o.reads(CONN, Side::Passive, 0, &[0; 10])), 1, "wrong");
        assert_eq!(read(&|o| o.reads(CONN, Side::Passive, 0, &[0; 11])), 2, "never written");
        assert_eq!(read(&|o| o.sees_end(CONN, Side::Passive)), 1, "an end too early");
        let short = |o: &mut Oracle| {
            o.shuts(CONN, Side::Active);
            o.reads(CONN, Side::Passive, 0, &bytes[..9]);
            o.sees_end(CONN, Side::Passive);
        };
        assert_eq!(read(&short), 1, "a byte lost");
        assert_eq!(read(&|o| o.sees_failure(CONN, Side::Passive, 104)), 1, "reset");
    }
}

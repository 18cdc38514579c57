//! The mutants: one branch of each step of RFC 9293 §3.10, as what stands there and what stands there instead.

/// A branch, taken the wrong way.
#[derive(Debug)]
pub struct Mutant {
    /// The step of §3.10, and what it should do.
    pub step: &'static str,
    /// The file under `netd/src/tcp`.
    pub file: &'static str,
    /// What stands there, once.
    pub there: &'static str,
    /// What stands there instead; `@` is the mutant's number, by which it is switched on.
    pub instead: &'static str,
}

/// The steps of §3.10 that a mutant is needed of. §3.10.6 only tells, and the checks of the security compartment
/// (third of §3.10.7.4) are obsolete (appendix A.1).
pub const STEPS: [&str; 20] = [
    "3.10.1 ",
    "3.10.2 ",
    "3.10.3 ",
    "3.10.4 ",
    "3.10.5 ",
    "3.10.7.1 ",
    "3.10.7.2 LISTEN first",
    "3.10.7.2 LISTEN second",
    "3.10.7.2 LISTEN third",
    "3.10.7.3 SYN-SENT first",
    "3.10.7.3 SYN-SENT second",
    "3.10.7.3 SYN-SENT fourth",
    "3.10.7.4 first",
    "3.10.7.4 second",
    "3.10.7.4 fourth",
    "3.10.7.4 fifth",
    "3.10.7.4 sixth",
    "3.10.7.4 seventh",
    "3.10.7.4 eighth",
    "3.10.8 ",
];

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        step: "3.10.1 OPEN: the SYN leaves",
        file: "control_block.rs",
        there: "        block.syn_due = true;\n        block\n    }\n\n    /// RFC 9293 §3.10.7.2",
        instead: "        block.syn_due = !crate::mutant(@);\n        block\n    }\n\n    /// RFC 9293 §3.10.7.2",
    },
    Mutant {
        step: "3.10.2 SEND: what is written is sent",
        file: "control_block.rs",
        there: "self.written = self.written.max(written);",
        instead: "self.written = if crate::mutant(@) { self.written } else { self.written.max(written) };",
    },
    Mutant {
        step: "3.10.3 RECEIVE: reading opens the window",
        file: "control_block.rs",
        there: "self.receive.consumed = self.receive.consumed.max(consumed);",
        instead: "if !crate::mutant(@) { self.receive.consumed = self.receive.consumed.max(consumed); }",
    },
    Mutant {
        step: "3.10.4 CLOSE: ESTABLISHED becomes FIN-WAIT-1",
        file: "control_block.rs",
        there: "State::Established => State::FinWait1,",
        instead: "State::Established => if crate::mutant(@) { State::LastAck } else { State::FinWait1 },",
    },
    Mutant {
        step: "3.10.5 ABORT: a RST leaves",
        file: "control_block.rs",
        there: "| State::CloseWait => Some(self.assemble_reset(now)),",
        instead: "| State::CloseWait => if crate::mutant(@) { None } else { Some(self.assemble_reset(now)) },",
    },
    Mutant {
        step: "3.10.7.1 CLOSED: a RST is not answered",
        file: "listen.rs",
        there: "pub fn reply_without_connection(segment: &Segment) -> Option<SegmentOut> {\n    if segment.flags.rst() {",
        instead: "pub fn reply_without_connection(segment: &Segment) -> Option<SegmentOut> {\n    if segment.flags.rst() && !crate::mutant(@) {",
    },
    Mutant {
        step: "3.10.7.2 LISTEN first: a RST is ignored",
        file: "listen.rs",
        there: "    if flags.rst() {\n        return Heard::Dropped(DropReason::TcpInvalidRst);",
        instead: "    if flags.rst() && !crate::mutant(@) {\n        return Heard::Dropped(DropReason::TcpInvalidRst);",
    },
    Mutant {
        step: "3.10.7.2 LISTEN second: an ACK is reset",
        file: "listen.rs",
        there: "    if !backlog.cookies_out || segment.flags.syn() {\n        return refuse(DropReason::NoSocket);",
        instead: "    if !backlog.cookies_out || segment.flags.syn() {\n        if crate::mutant(@) { return Heard::Dropped(DropReason::NoSocket); }\n        return refuse(DropReason::NoSocket);",
    },
    Mutant {
        step: "3.10.7.2 LISTEN third: a SYN with FIN",
        file: "listen.rs",
        there: "    if flags.fin() {",
        instead: "    if flags.fin() && !crate::mutant(@) {",
    },
    Mutant {
        step: "3.10.7.3 SYN-SENT first: an ACK of nothing",
        file: "input/syn_sent.rs",
        there: "self.send.una < ack && ack <= self.send.nxt",
        instead: "(self.send.una < ack || crate::mutant(@)) && ack <= self.send.nxt",
    },
    Mutant {
        step: "3.10.7.3 SYN-SENT second: a RST without ACK",
        file: "input/syn_sent.rs",
        there: "        if acknowledged {\n            self.finish",
        instead: "        if acknowledged || crate::mutant(@) {\n            self.finish",
    },
    Mutant {
        step: "3.10.7.3 SYN-SENT fourth: simultaneous open",
        file: "input/syn_sent.rs",
        there: "self.state = State::SynReceived;",
        instead: "if !crate::mutant(@) { self.state = State::SynReceived; }",
    },
    Mutant {
        step: "3.10.7.4 first: beyond the window",
        file: "input/acceptability.rs",
        there: "{ place < edge && end > nxt }",
        instead: "{ (place < edge || crate::mutant(@)) && end > nxt }",
    },
    Mutant {
        step: "3.10.7.4 first: below the window",
        file: "input/acceptability.rs",
        there: "&& end > nxt }",
        instead: "&& (end > nxt || crate::mutant(@)) }",
    },
    Mutant {
        step: "3.10.7.4 first: PAWS",
        file: "input/acceptability.rs",
        there: "        age < 0 && now.since",
        instead: "        age < 0 && !crate::mutant(@) && now.since",
    },
    Mutant {
        step: "3.10.7.4 second: a RST of another number",
        file: "input/acceptability.rs",
        there: "if place != self.receive.nxt {",
        instead: "if place != self.receive.nxt && !crate::mutant(@) {",
    },
    Mutant {
        step: "3.10.7.4 fourth: a SYN is challenged",
        file: "input/acceptability.rs",
        there: "if segment.flags.syn() && !repeats {",
        instead: "if segment.flags.syn() && !repeats && !crate::mutant(@) {",
    },
    Mutant {
        step: "3.10.7.4 fifth: no ACK bit",
        file: "input/acknowledgement.rs",
        there: "if !segment.flags.ack() {",
        instead: "if !segment.flags.ack() && !crate::mutant(@) {",
    },
    Mutant {
        step: "3.10.7.4 fifth: SYN-RECEIVED becomes ESTABLISHED",
        file: "input/acknowledgement.rs",
        there: "else { State::Established };",
        instead: "else if crate::mutant(@) { State::CloseWait } else { State::Established };",
    },
    Mutant {
        step: "3.10.7.4 fifth: an ACK of what was not sent",
        file: "input/acknowledgement.rs",
        there: "oldest <= *ack && *ack <= self.send.nxt",
        instead: "oldest <= *ack && (*ack <= self.send.nxt || crate::mutant(@))",
    },
    Mutant {
        step: "3.10.7.4 fifth: the send window",
        file: "window.rs",
        there: "        if !(self.wl1 < seq ||",
        instead: "        if crate::mutant(@) || !(self.wl1 < seq ||",
    },
    Mutant {
        step: "3.10.7.4 fifth: FIN-WAIT-1 becomes FIN-WAIT-2",
        file: "input/acknowledgement.rs",
        there: "self.state = State::FinWait2;",
        instead: "if !crate::mutant(@) { self.state = State::FinWait2; }",
    },
    Mutant {
        step: "3.10.7.4 fifth: CLOSING becomes TIME-WAIT",
        file: "input/acknowledgement.rs",
        there: "            State::Closing => {",
        instead: "            State::Closing if crate::mutant(@) => {}\n            State::Closing => {",
    },
    Mutant {
        step: "3.10.7.4 fifth: LAST-ACK ends",
        file: "input/acknowledgement.rs",
        there: "            State::LastAck => {",
        instead: "            State::LastAck if crate::mutant(@) => {}\n            State::LastAck => {",
    },
    Mutant {
        step: "3.10.7.4 sixth: the urgent octet",
        file: "input/text.rs",
        there: "segment.urgent.saturating_sub(1)",
        instead: "segment.urgent.saturating_sub(u16::from(!crate::mutant(@)))",
    },
    Mutant {
        step: "3.10.7.4 sixth: an older pointer",
        file: "input/text.rs",
        there: "|known| octet > known",
        instead: "|known| octet > known || crate::mutant(@)",
    },
    Mutant {
        step: "3.10.7.4 seventh: data that nobody reads",
        file: "input/text.rs",
        there: "        if unread && text.end",
        instead: "        if unread && !crate::mutant(@) && text.end",
    },
    Mutant {
        step: "3.10.7.4 seventh: every second segment",
        file: "input/text.rs",
        there: "unacknowledged >= ACK_EVERY *",
        instead: "unacknowledged >= (if crate::mutant(@) { 4 } else { ACK_EVERY }) *",
    },
    Mutant {
        step: "3.10.7.4 seventh: out of order is told at once",
        file: "input/text.rs",
        there: "        self.ack_now = true;\n        let store = self.out_of_order.get_or_insert_with(Box::default);\n        if store.insert",
        instead: "        self.ack_now = !crate::mutant(@);\n        let store = self.out_of_order.get_or_insert_with(Box::default);\n        if store.insert",
    },
    Mutant {
        step: "3.10.7.4 eighth: the FIN is acknowledged",
        file: "input/text.rs",
        there: "self.receive.nxt = self.remote_fin.plus(1);",
        instead: "self.receive.nxt = self.remote_fin.plus(u64::from(!crate::mutant(@)));",
    },
    Mutant {
        step: "3.10.7.4 eighth: ESTABLISHED becomes CLOSE-WAIT",
        file: "input/text.rs",
        there: "State::Established => self.state = State::CloseWait,",
        instead: "State::Established => self.state = if crate::mutant(@) { State::LastAck } else { State::CloseWait },",
    },
    Mutant {
        step: "3.10.7.4 eighth: FIN-WAIT-1 becomes CLOSING",
        file: "input/text.rs",
        there: "self.state = State::Closing,",
        instead: "self.state = if crate::mutant(@) { State::LastAck } else { State::Closing },",
    },
    Mutant {
        step: "3.10.8 user time-out",
        file: "expiry.rs",
        there: "(Some(timeout), Some(since)) => now.since(since) >= timeout,\n            _ => self.retries >= most,",
        instead: "(Some(timeout), Some(since)) => now.since(since) >= timeout || crate::mutant(@),\n            _ => self.retries >= most,",
    },
    Mutant {
        step: "3.10.8 retransmission time-out",
        file: "expiry.rs",
        there: "                recovery.on_timeout(now, srtt, &mut parts);",
        instead: "                if !crate::mutant(@) { recovery.on_timeout(now, srtt, &mut parts); }",
    },
    Mutant {
        step: "3.10.8 TIME-WAIT time-out",
        file: "input/acknowledgement.rs",
        there: "Deadline::at(now + TIME_WAIT);",
        instead: "Deadline::at(now + TIME_WAIT * if crate::mutant(@) { 100 } else { 1 });",
    },
];

//! CLOSED and LISTEN (RFC 9293 §3.10.7.1 and §3.10.7.2): segments that belong to no connection.
//!
//! Pure functions: a listener's queues are the stack's, which says how full they are and gets back
//! a control block to keep, a segment to send, or neither. Under pressure the answer is a SYN
//! cookie and nothing is kept (RFC 4987 §3.6).

use core::net::IpAddr;

use proto::time::Instant;

use super::control_block::ControlBlock;
use super::cookie::{self, Offer};
use super::ecn::EcnState;
use super::fast_open;
use super::isn::{self, Secrets};
use super::reaction::Reopen;
use super::segment::{Flags, Options, Segment, SegmentOut, Timestamps};
use super::seq::SeqNum;
use super::settings::Settings;
use super::window::ReceiveWindow;
use crate::wire::drop_reason::DropReason;

/// What a listener does with a SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HalfOpen {
    /// Its connection is kept, half-open.
    #[default]
    Kept,
    /// It gets a cookie, and an ACK may bring that back.
    Cookies,
    /// There are too many, and cookies are not wanted: it is dropped.
    Refused,
}

/// How full a listener is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// What becomes of SYNs.
    pub half_open: HalfOpen,
    /// No further connection can wait for accept: SYNs and cookies are dropped.
    pub accept_full: bool,
    /// Cookies were sent within their lifetime, so ACKs without a connection are looked at.
    pub cookies_out: bool,
}

/// What comes of a segment for a listener.
#[derive(Debug)]
pub enum Heard {
    /// Nothing, under this reason.
    Dropped(DropReason),
    /// An answer without state: a RST (with its reason) or a SYN cookie (`None`).
    Answered(SegmentOut, Option<DropReason>),
    /// A connection to keep: half-open, its SYN-ACK leaves by `poll_output`.
    HalfOpen(Box<ControlBlock>),
    /// A connection to keep whose SYN brought a Fast Open cookie of ours: half-open, and already to be
    /// offered to accept with what its SYN carries ([`ControlBlock::accept_fast`]).
    Fast(Box<ControlBlock>),
    /// A connection from a cookie: to be kept, and the same segment then given to its
    /// `on_segment`, which establishes it.
    FromCookie(Box<ControlBlock>),
}

/// Who calls a listener.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Bytes that name the flow, the same for every segment of it.
    pub flow: &'a [u8],
    /// The SYN took over a TIME-WAIT connection.
    pub reopen: Option<Reopen>,
    /// Its address.
    pub addr: IpAddr,
}

/// A segment for a listener (RFC 9293 §3.10.7.2).
pub fn on_segment(
    now: Instant,
    segment: &Segment,
    caller: &Caller<'_>,
    secrets: &Secrets,
    backlog: Backlog,
    settings: &Settings,
) -> Heard {
    let flags = segment.flags;
    // First step: "An incoming RST should be ignored".
    if flags.rst() {
        return Heard::Dropped(DropReason::TcpInvalidRst);
    }
    // Second step: any ACK is bad here, unless it answers a cookie.
    if flags.ack() {
        return on_ack(now, segment, caller, secrets, backlog, settings);
    }
    // Third step: a SYN. Fourth step: anything else is dropped.
    if !flags.syn() {
        return Heard::Dropped(DropReason::TcpFlags);
    }
    if flags.fin() {
        return Heard::Dropped(DropReason::TcpFlags);
    }
    if backlog.accept_full {
        // No RST: the remote tries again, as with Linux.
        return Heard::Dropped(DropReason::TcpListenOverflow);
    }
    let offset = isn::timestamp_offset(secrets, caller.flow);
    match backlog.half_open {
        HalfOpen::Kept => {}
        HalfOpen::Cookies => {
            return Heard::Answered(cookie_reply(now, segment, caller, secrets, settings, offset), None);
        }
        HalfOpen::Refused => return Heard::Dropped(DropReason::TcpListenOverflow),
    }
    let mut iss = isn::initial_sequence(secrets, caller.flow, now);
    if let Some(reopen) = caller.reopen
        && iss.before(reopen.isn_min)
    {
        iss = reopen.isn_min;
    }
    let mut block = Box::new(ControlBlock::accept(now, segment, iss, offset, settings));
    // RFC 7413 §4.2.2: the cookie is looked at, or one is made; else the data of the SYN is not taken.
    let Some(said) = segment.options.fast_open.filter(|_| settings.options.fast_open) else {
        return Heard::HalfOpen(block);
    };
    let own = fast_open::cookie_of(&secrets.cookie, caller.addr);
    if said == own {
        return Heard::Fast(block);
    }
    block.offer_cookie(own);
    Heard::HalfOpen(block)
}

fn on_ack(
    now: Instant,
    segment: &Segment,
    caller: &Caller<'_>,
    secrets: &Secrets,
    backlog: Backlog,
    settings: &Settings,
) -> Heard {
    let refuse = |reason| match reply_without_connection(segment) {
        Some(reset) => Heard::Answered(reset, Some(reason)),
        None => Heard::Dropped(reason),
    };
    if !backlog.cookies_out || segment.flags.syn() {
        return refuse(DropReason::NoSocket);
    }
    let Some(offer) = cookie::check(&secrets.cookie, caller.flow, segment, now) else {
        return refuse(DropReason::TcpCookieInvalid);
    };
    if backlog.accept_full {
        return Heard::Dropped(DropReason::TcpListenOverflow);
    }
    let offset = isn::timestamp_offset(secrets, caller.flow);
    Heard::FromCookie(Box::new(reborn(now, segment, &offer, offset, settings)))
}

/// The half-open connection a cookie stands for: as if its SYN had just been answered.
fn reborn(now: Instant, ack: &Segment, offer: &Offer, offset: u32, settings: &Settings) -> ControlBlock {
    let syn = Segment {
        seq: ack.seq.minus(1),
        // As the SYN had asked: agreed by the same rule as then.
        flags: if offer.ecn { Flags::SYN.with(Flags::ECE).with(Flags::CWR) } else { Flags::SYN },
        window: ack.window,
        options: Options {
            mss: Some(offer.mss),
            window_scale: offer.window_scale,
            sack_permitted: offer.sack,
            timestamps: ack.options.timestamps.filter(|_| offer.timestamps),
            ..Options::NONE
        },
        ..Segment::default()
    };
    let mut block = ControlBlock::accept(now, &syn, ack.ack.minus(1), offset, settings);
    block.note_syn_ack_sent();
    block
}

/// <SEQ=cookie><ACK=SEG.SEQ+1><CTL=SYN,ACK>.
fn cookie_reply(
    now: Instant,
    syn: &Segment,
    caller: &Caller<'_>,
    secrets: &Secrets,
    settings: &Settings,
    offset: u32,
) -> SegmentOut {
    let clock = (now.millis() as u32).wrapping_add(offset);
    let mut heard = *syn;
    heard.options.timestamps = syn.options.timestamps.filter(|_| settings.timestamps);
    heard.options.window_scale = syn.options.window_scale.filter(|_| settings.window_scaling);
    heard.options.sack_permitted &= settings.sack;
    let ecn = EcnState { mode: settings.ecn, ..EcnState::default() }.agreed_by(syn);
    let made = cookie::make(&secrets.cookie, caller.flow, &heard, settings.default_mss, ecn, now, clock);
    let scale = ReceiveWindow::scale_for(settings.receive_limit_max);
    SegmentOut {
        seq: made.isn,
        ack: syn.seq.plus(1),
        flags: Flags::SYN.with(Flags::ACK).with(if made.offer.ecn { Flags::ECE } else { Flags::NONE }),
        window: settings.receive_limit.min(u32::from(u16::MAX)) as u16,
        options: Options {
            mss: Some(settings.advertised_mss),
            window_scale: made.offer.window_scale.map(|_| scale),
            sack_permitted: made.offer.sack,
            timestamps: heard
                .options
                .timestamps
                .map(|theirs| Timestamps { value: made.timestamp, echo: theirs.value }),
            ..Options::NONE
        },
        piece_len: settings.path_mss,
        ..SegmentOut::default()
    }
}

/// CLOSED (RFC 9293 §3.10.7.1, and §3.5.2 group 1): the RST a segment without a connection gets;
/// `None` for a RST.
pub fn reply_without_connection(segment: &Segment) -> Option<SegmentOut> {
    if segment.flags.rst() {
        return None;
    }
    let mut reset = SegmentOut { flags: Flags::RST, piece_len: 1, ..SegmentOut::default() };
    if segment.flags.ack() {
        // <SEQ=SEG.ACK><CTL=RST>.
        reset.seq = segment.ack;
    } else {
        // <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>.
        reset.seq = SeqNum::new(0);
        reset.ack = segment.seq.plus(segment.seq_len() as u32);
        reset.flags = Flags::RST.with(Flags::ACK);
    }
    Some(reset)
}

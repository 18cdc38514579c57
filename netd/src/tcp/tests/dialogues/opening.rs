//! Opening: connect, simultaneous open, listeners, cookies.

use super::*;

#[test]
fn the_syn_says_what_the_settings_allow() {
    let mut stage = Stage::connecting(Settings::default());
    let syn = stage.sends(Flags::SYN, 0, 0);
    assert_eq!(syn.options.mss, Some(1460));
    assert_eq!(syn.options.window_scale, Some(5));
    assert!(syn.options.sack_permitted && syn.options.timestamps.is_some());
    assert_eq!(syn.window, 65_535);
    stage.silent();
}

#[test]
fn syn_sent_resends_and_gives_up_after_127_seconds() {
    let mut stage = Stage::connecting(plain());
    stage.sends(Flags::SYN, 0, 0);
    let start = stage.now;
    for _ in 0..6 {
        let _ = stage.tick();
        stage.sends(Flags::SYN, 0, 0);
    }
    let (_, reaction) = stage.tick();
    assert!(reaction.events.closed);
    assert_eq!(stage.block.failure(), Some(Failure::TimedOut));
    assert_eq!(stage.now.since(start), Duration::from_secs(127));
    stage.silent();
}

#[test]
fn syn_sent_is_refused_only_by_a_rst_that_acknowledges() {
    let mut stage = Stage::connecting(plain());
    stage.sends(Flags::SYN, 0, 0);
    let blind = stage.hear(Flags::RST, 0, 0, 0);
    assert_eq!(blind.dropped, Some(DropReason::TcpInvalidRst));
    let wrong = stage.hear(Flags::RST.with(ACK), 0, 1, 0);
    assert_eq!((wrong.dropped, wrong.reply), (Some(DropReason::TcpAckUnsentData), None));
    let right = stage.hear(Flags::RST.with(ACK), 0, 0, 0);
    assert!(right.events.closed);
    assert_eq!(stage.block.failure(), Some(Failure::ConnectionRefused));
}

#[test]
fn syn_sent_resets_a_half_open_remote() {
    // RFC 9293 §3.5.1, figure 9: an ACK for something never sent.
    let mut stage = Stage::connecting(plain());
    stage.sends(Flags::SYN, 0, 0);
    let reaction = stage.hear(ACK, 0, 300, 0);
    let reset = reaction.reply.expect("a RST");
    assert_eq!((reset.flags, reset.seq.get()), (Flags::RST, ISS + 301));
    assert_eq!(stage.state(), State::SynSent);
}

#[test]
fn simultaneous_open_meets_in_the_middle() {
    // RFC 9293 §3.5, figure 7.
    let mut stage = Stage::connecting(plain());
    stage.sends(Flags::SYN, 0, 0);
    let syn = Segment { ack: SeqNum::new(0), ..stage.segment(Flags::SYN, -1, 0, 0) };
    let _ = stage.hears(syn);
    assert_eq!(stage.state(), State::SynReceived);
    let syn_ack = stage.sends(SYN_ACK, 0, 0);
    assert_eq!(syn_ack.ack.get(), IRS + 1);
    let reaction = stage.hear(SYN_ACK, -1, 0, 0);
    assert!(reaction.events.established);
    stage.sends(ACK, 0, 0);
    assert_eq!(stage.state(), State::Established);
}

#[test]
fn data_on_the_syn_ack_is_taken() {
    let mut stage = Stage::connecting(plain());
    stage.sends(Flags::SYN, 0, 0);
    let reaction = stage.hear(SYN_ACK, -1, 0, 10);
    assert_eq!(reaction.deliver, Some(Deliver { payload_start: 0, len: 10, offset: 0 }));
    assert_eq!(stage.sends(ACK, 0, 0).ack.get(), IRS + 11);
}

#[test]
fn a_listener_answers_by_the_book() {
    let settings = plain();
    let none = Backlog::default();
    let rst = Segment { flags: Flags::RST, ..Segment::default() };
    assert!(matches!(knock(&rst, none, &settings), Heard::Dropped(DropReason::TcpInvalidRst)));
    let ack = Segment { flags: ACK, ack: SeqNum::new(77), ..Segment::default() };
    match knock(&ack, none, &settings) {
        Heard::Answered(reset, Some(DropReason::NoSocket)) => {
            assert_eq!((reset.flags, reset.seq.get()), (Flags::RST, 77));
        }
        other => panic!("{other:?}"),
    }
    let full = Backlog { accept_full: true, ..none };
    let heard = knock(&syn(Options::NONE), full, &settings);
    assert!(matches!(heard, Heard::Dropped(DropReason::TcpListenOverflow)));
    let nothing = Segment { flags: Flags::FIN, ..Segment::default() };
    assert!(matches!(knock(&nothing, none, &settings), Heard::Dropped(DropReason::TcpFlags)));
}

#[test]
fn syn_received_becomes_established_by_the_ack() {
    let mut stage = half_open();
    let reaction = stage.hear_passive(ACK, 0, 0, 5);
    assert!(reaction.events.established && reaction.events.received);
    assert_eq!(stage.state(), State::Established);
}

#[test]
fn syn_received_answers_what_is_wrong() {
    let mut stage = half_open();
    let bad = stage.hear_passive(ACK, 0, 5, 0);
    assert_eq!(bad.reply.map(|out| out.flags), Some(Flags::RST));
    assert_eq!(stage.state(), State::SynReceived);
    // The SYN again: the SYN-ACK again.
    let again = stage.hears(syn(Options::NONE));
    assert_eq!(again.reply, None);
    assert_eq!(stage.poll().map(|out| out.flags), Some(SYN_ACK));
    let reaction = stage.hear_passive(Flags::RST, 0, 0, 0);
    assert!(reaction.events.closed);
}

#[test]
fn syn_received_resends_and_gives_up() {
    let mut stage = half_open();
    for _ in 0..5 {
        let _ = stage.tick();
        assert_eq!(stage.poll().map(|out| out.flags), Some(SYN_ACK));
    }
    assert!(stage.tick().1.events.closed);
}

#[test]
fn a_cookie_brings_back_the_connection_and_its_options() {
    let settings = Settings::default();
    let backlog = Backlog { half_open: HalfOpen::Cookies, cookies_out: true, accept_full: false };
    let options = Options {
        mss: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: Some(Timestamps { value: 9, echo: 0 }),
        ..Options::NONE
    };
    let Heard::Answered(cookie, None) = knock(&syn(options), backlog, &settings) else {
        panic!("a cookie");
    };
    assert_eq!(cookie.flags, SYN_ACK);
    let echo = cookie.options.timestamps.unwrap().value;
    let ack = Segment {
        seq: SeqNum::new(IRS + 1),
        ack: cookie.seq.plus(1),
        flags: ACK,
        window: 100,
        options: Options { timestamps: Some(Timestamps { value: 10, echo }), ..Options::NONE },
        ..Segment::default()
    };
    let Heard::FromCookie(mut block) = knock(&ack, backlog, &settings) else { panic!("accepted") };
    let mut challenge = ChallengeLimiter::new([0; 16]);
    let mut env = Env { challenge: &mut challenge };
    let reaction = block.on_segment(Instant::from_millis(10_000), &ack, &mut env);
    assert!(reaction.events.established);
    let agreed = block.agreement();
    assert_eq!((agreed.remote_mss, agreed.send_scale, agreed.sack), (1460, 7, true));
    assert_eq!(block.send.wnd(), 100 << 7);
    let forged = Segment { ack: cookie.seq.plus(2), ..ack };
    let heard = knock(&forged, backlog, &settings);
    assert!(matches!(heard, Heard::Answered(_, Some(DropReason::TcpCookieInvalid))));
}

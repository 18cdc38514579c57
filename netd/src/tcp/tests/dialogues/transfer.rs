//! Data: retransmission, probes, windows, acknowledgements, keepalive.

use super::*;

#[test]
fn the_third_duplicate_sends_again_at_once() {
    let mut stage = Stage::established();
    stage.write(10_000);
    for n in 0..10 {
        stage.sends(ACK, n * 1000, 1000);
    }
    for n in 1..=3u32 {
        let sack =
            SackBlock { start: SeqNum::new(ISS + 1 + n * 1000), end: SeqNum::new(ISS + 1 + (n + 1) * 1000) };
        let mut segment = stage.segment(ACK, 0, 0, 0);
        segment.options.sack.push(sack);
        let _ = stage.hears(segment);
    }
    stage.sends(ACK, 0, 1000);
    stage.silent();
}

#[test]
fn a_lost_tail_is_probed_after_two_round_trips() {
    let mut stage = Stage::established();
    stage.write(3000);
    for n in 0..3 {
        stage.sends(ACK, n * 1000, 1000);
    }
    let (waited, _) = stage.tick();
    // SRTT is 20 ms from the handshake.
    assert_eq!(waited, Duration::from_millis(42));
    stage.sends(ACK, 2000, 1000);
    let (waited, _) = stage.tick();
    assert!(waited >= Duration::from_millis(200));
    stage.sends(ACK, 0, 1000);
    stage.silent();
}

#[test]
fn retransmissions_back_off_and_end() {
    let mut stage = Stage::with(Settings { sack: false, ..plain() });
    stage.write(1000);
    stage.sends(ACK, 0, 1000);
    let mut last = Duration::ZERO;
    let mut sent = 0;
    let start = stage.now;
    loop {
        let (waited, reaction) = stage.tick();
        if reaction.events.closed {
            break;
        }
        assert!(waited >= last.min(Duration::from_secs(120)));
        last = waited;
        stage.sends(ACK, 0, 1000);
        sent += 1;
    }
    assert_eq!(sent, 15);
    assert_eq!(stage.block.failure(), Some(Failure::TimedOut));
    assert!(stage.now.since(start) > Duration::from_secs(900));
}

#[test]
fn a_user_timeout_ends_earlier() {
    let mut stage = Stage::established();
    let options = SocketOptions { user_timeout: Some(Duration::from_secs(5)), ..SocketOptions::default() };
    stage.block.set_options(stage.now, options);
    stage.write(1000);
    stage.sends(ACK, 0, 1000);
    let start = stage.now;
    while !stage.tick().1.events.closed {
        while stage.poll().is_some() {}
    }
    let took = stage.now.since(start);
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(15), "{took:?}");
}

#[test]
fn nagle_holds_a_second_small_segment() {
    let mut stage = Stage::established();
    stage.write(10);
    stage.sends(ACK, 0, 10);
    stage.write(20);
    stage.silent();
    stage.write(1010);
    stage.sends(ACK, 10, 1000);
    stage.write(1020);
    stage.silent();
    let _ = stage.hear(ACK, 0, 1010, 0);
    stage.sends(ACK, 1010, 10);
    let options = SocketOptions { nodelay: true, ..SocketOptions::default() };
    stage.block.set_options(stage.now, options);
    stage.write(1030);
    stage.sends(ACK, 1020, 10);
}

#[test]
fn a_cork_holds_for_200_ms() {
    let mut stage = Stage::established();
    let options = SocketOptions { cork: true, ..SocketOptions::default() };
    stage.block.set_options(stage.now, options);
    stage.write(10);
    stage.silent();
    assert_eq!(stage.tick().0, Duration::from_millis(200));
    stage.sends(ACK, 0, 10);
}

#[test]
fn a_zero_window_is_probed_for_ever_while_answered() {
    let mut stage = Stage::established();
    let _ = stage.hears(Segment { window: 0, ..stage.segment(ACK, 0, 0, 0) });
    stage.write(1000);
    stage.silent();
    for _ in 0..100 {
        let (waited, reaction) = stage.tick();
        assert!(!reaction.events.closed && waited <= Duration::from_secs(120));
        stage.sends(ACK, -1, 0);
        let _ = stage.hears(Segment { window: 0, ..stage.segment(ACK, 0, 0, 0) });
        stage.silent();
    }
    let _ = stage.hear(ACK, 0, 0, 0);
    stage.sends(ACK, 0, 1000);
    assert!(stage.block.next_deadline().unwrap().since(stage.now) < Duration::from_secs(1));
}

#[test]
fn unanswered_window_probes_end() {
    let mut stage = Stage::established();
    let _ = stage.hears(Segment { window: 0, ..stage.segment(ACK, 0, 0, 0) });
    stage.write(1000);
    stage.silent();
    let mut probes = 0;
    while !stage.tick().1.events.closed {
        stage.sends(ACK, -1, 0);
        probes += 1;
    }
    assert_eq!(probes, 15);
}

#[test]
fn every_second_segment_is_acknowledged_and_a_lone_one_within_40_ms() {
    let mut stage = Stage::established();
    let _ = stage.hear(ACK, 0, 0, 1000);
    stage.silent();
    let _ = stage.hear(ACK, 1000, 0, 1000);
    assert_eq!(stage.sends(ACK, 0, 0).ack.get(), IRS + 1 + 2000);
    let _ = stage.hear(ACK, 2000, 0, 1000);
    stage.silent();
    assert_eq!(stage.tick().0, Duration::from_millis(40));
    stage.sends(ACK, 0, 0);
}

#[test]
fn out_of_order_data_is_placed_and_reported() {
    let mut stage = Stage::established();
    let reaction = stage.hear(ACK, 1000, 0, 500);
    assert_eq!(reaction.deliver, Some(Deliver { payload_start: 0, len: 500, offset: 1000 }));
    let ack = stage.sends(ACK, 0, 0);
    assert_eq!(ack.ack.get(), IRS + 1);
    assert_eq!(ack.options.sack.as_slice()[0].start.get(), IRS + 1001);
    // Part of it again: only what is missing is copied, and the rest reported as a duplicate.
    let reaction = stage.hear(ACK, 800, 0, 400);
    assert_eq!(reaction.deliver, Some(Deliver { payload_start: 0, len: 200, offset: 800 }));
    stage.sends(ACK, 0, 0);
    let reaction = stage.hear(ACK, 0, 0, 800);
    assert_eq!(reaction.deliver, Some(Deliver { payload_start: 0, len: 800, offset: 0 }));
    assert_eq!(stage.block.received(), 1500);
    assert_eq!(stage.sends(ACK, 0, 0).ack.get(), IRS + 1501);
    let old = stage.hear(ACK, 0, 0, 800);
    assert_eq!(old.dropped, Some(DropReason::TcpOldData));
    let dsack = old.reply.expect("acknowledged again").options.sack;
    assert_eq!(dsack.as_slice()[0].start.get(), IRS + 1);
}

#[test]
fn nothing_is_taken_beyond_the_window() {
    let mut stage = Stage::established();
    let reaction = stage.hear(ACK, 0, 0, 60_000);
    assert_eq!(reaction.deliver.map(|d| d.len), Some(50_000));
    assert_eq!(reaction.dropped, Some(DropReason::TcpInvalidSequence));
    assert_eq!(stage.sends(ACK, 0, 0).window, 0);
    // A zero-window probe with the next octet.
    let probe = stage.hear(ACK, 50_000, 0, 1);
    assert_eq!(probe.deliver, None);
    stage.sends(ACK, 0, 0);
    // And one of Linux's kind, below.
    let probe = stage.hear(ACK, 49_999, 0, 0);
    assert!(probe.reply.is_some());
    stage.block.on_consumed(stage.now, 50_000);
    assert_eq!(stage.sends(ACK, 0, 0).window, 50_000);
}

#[test]
fn keepalive_probes_and_gives_up() {
    let mut stage = Stage::established();
    let keepalive = Keepalive { idle_s: 10, interval_s: 2, probes: 3 };
    let options = SocketOptions { keepalive: Some(keepalive), ..SocketOptions::default() };
    stage.block.set_options(stage.now, options);
    assert_eq!(stage.tick().0, Duration::from_secs(10));
    stage.sends(ACK, -1, 0);
    let _ = stage.hear(ACK, 0, 0, 0);
    for _ in 0..3 {
        while stage.poll().is_none() {
            let _ = stage.tick();
        }
    }
    let (waited, reaction) = stage.tick();
    assert_eq!(waited, Duration::from_secs(2));
    assert!(reaction.events.closed && reaction.reply.is_some_and(|out| out.flags.rst()));
    assert_eq!(stage.block.failure(), Some(Failure::TimedOut));
}

#[test]
fn quick_acknowledgements_are_not_delayed() {
    let mut stage = Stage::established();
    let _ = stage.hear(ACK, 0, 0, 100);
    stage.silent();
    let options = SocketOptions { quickack: true, ..SocketOptions::default() };
    stage.block.set_options(stage.now, options);
    stage.sends(ACK, 0, 0);
    let _ = stage.hear(ACK, 100, 0, 100);
    stage.sends(ACK, 0, 0);
    stage.silent();
}

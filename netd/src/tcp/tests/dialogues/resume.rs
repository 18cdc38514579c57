//! Deaths (INV-T6): what a block made from its record says first.

use super::*;

#[test]
fn a_resumed_connection_speaks_first() {
    let mut stage = Stage::established();
    stage.write(8000);
    for n in 0..8 {
        stage.sends(ACK, n * 1000, 1000);
    }
    let _ = stage.hear(ACK, 0, 2000, 700);
    let _ = stage.hear(ACK, 5000, 2000, 700);
    stage.sends(ACK, 8000, 0);
    let edge = stage.block.receive.edge;
    stage.wait(5);
    stage.die(0);
    assert_eq!(stage.block.receive.edge, edge);
    // What was unacknowledged again, two segments a millisecond, with the ACK on them.
    // A SACK block takes twelve octets of each.
    let first = stage.sends(ACK, 2000, 988);
    assert_eq!(first.ack.get(), IRS + 701);
    assert_eq!(first.options.sack.len(), 1, "what was kept stays reported");
    stage.sends(ACK, 2988, 988);
    stage.silent();
    let (waited, _) = stage.tick();
    assert_eq!(waited, Duration::from_millis(1));
    assert!(stage.poll().is_some());
    // The remote has all of it.
    let _ = stage.hear(ACK, 700, 8000, 0);
    assert_eq!(stage.block.in_flight(), 0);
    stage.silent();
}

/// Nothing that leaves after a resume arrives: what was allowed at first is used up, and the time-outs
/// go on all the same.
#[test]
fn what_is_lost_after_a_resume_is_sent_again_and_again() {
    for written_before in [true, false] {
        let mut stage = Stage::established();
        if written_before {
            stage.write(30_000);
            while stage.poll().is_some() {}
        }
        stage.die(0);
        stage.write(30_000);
        let (begun, mut firsts) = (stage.now, 0);
        while stage.now.since(begun) < Duration::from_secs(40) {
            while let Some(out) = stage.poll() {
                firsts += u32::from(out.seq == SeqNum::new(ISS + 1) && out.payload_len > 0);
            }
            let _ = stage.tick();
        }
        // RFC 6298 §5.5: each takes twice as long as the one before.
        assert!((5..=12).contains(&firsts), "the first segment left {firsts} times");
        let arrived = stage.block.in_flight();
        let _ = stage.hear(ACK, 0, arrived as i64, 0);
        assert!(stage.block.in_flight() == 0 && stage.poll().is_some(), "and the rest follows");
    }
}

#[test]
fn an_idle_connection_resumes_with_an_ack() {
    let mut stage = Stage::established();
    stage.die(0);
    let ack = stage.sends(ACK, 0, 0);
    assert_eq!(ack.window, 50_000);
    stage.silent();
    assert_eq!(stage.block.next_deadline(), None, "no timer where nothing waits");
    // The remote's window is remembered: new data need not wait for it to speak.
    stage.write(500);
    stage.sends(ACK, 0, 500);
}

#[test]
fn half_open_connections_resume_with_their_syn() {
    let mut stage = Stage::connecting(plain());
    stage.sends(Flags::SYN, 0, 0);
    stage.die(0);
    stage.sends(Flags::SYN, 0, 0);
    assert!(stage.hear(SYN_ACK, -1, 0, 0).events.established);

    let mut stage = half_open();
    stage.die(0);
    assert_eq!(stage.poll().map(|out| out.flags), Some(SYN_ACK));
    assert!(stage.hear_passive(ACK, 0, 0, 0).events.established);
}

#[test]
fn time_wait_resumes_in_silence() {
    let mut stage = Stage::established();
    stage.shut();
    stage.sends(FIN_ACK, 0, 0);
    let _ = stage.hear(FIN_ACK, 0, 1, 0);
    stage.sends(ACK, 1, 0);
    stage.die(0);
    stage.silent();
    assert_eq!(stage.tick().0, TIME_WAIT);
}

#[test]
fn a_sent_fin_is_sent_again_in_its_place() {
    let mut stage = Stage::established();
    stage.write(100);
    stage.shut();
    stage.sends(FIN_ACK, 0, 100);
    stage.die(0);
    assert_eq!(stage.state(), State::FinWait1);
    stage.sends(FIN_ACK, 0, 100);
    let _ = stage.hear(ACK, 0, 101, 0);
    assert_eq!(stage.state(), State::FinWait2);
}

#[test]
fn a_remote_that_forgets_its_reports_gets_all_again() {
    // RFC 2018 §8, as after a death of the remote that kept fewer ranges.
    let mut stage = Stage::established();
    stage.write(5000);
    for n in 0..5 {
        stage.sends(ACK, n * 1000, 1000);
    }
    let mut segment = stage.segment(ACK, 0, 0, 0);
    segment.options.sack.push(SackBlock { start: SeqNum::new(ISS + 1001), end: SeqNum::new(ISS + 5001) });
    let _ = stage.hears(segment);
    stage.sends(ACK, 0, 1000);
    let _ = stage.hear(ACK, 0, 1000, 0);
    for n in 1..5 {
        stage.sends(ACK, n * 1000, 1000);
        let _ = stage.hear(ACK, 0, (n + 1) * 1000, 0);
    }
    stage.silent();
}

#[test]
fn a_block_is_small() {
    assert!(size_of::<ControlBlock>() <= 640, "{}", size_of::<ControlBlock>());
    println!("a block has {} octets", size_of::<ControlBlock>());
}

#[test]
fn a_new_driver_is_no_reason_to_wait_for_a_timer() {
    let mut stage = Stage::established();
    stage.write(3000);
    for n in 0..3 {
        stage.sends(ACK, n * 1000, 1000);
    }
    stage.silent();
    assert!(stage.block.on_device_replaced(stage.now));
    stage.sends(ACK, 0, 1000);
    stage.sends(ACK, 1000, 1000);
    stage.silent();
    // The remote had it all.
    let _ = stage.hear(ACK, 0, 3000, 0);
    assert_eq!(stage.block.in_flight(), 0);
    // With nothing under way an ACK says what is known, lately; later nobody waits for it.
    assert!(stage.block.on_device_replaced(stage.now));
    stage.sends(ACK, 3000, 0);
    stage.wait(10_000);
    assert!(!stage.block.on_device_replaced(stage.now));
    stage.silent();
}

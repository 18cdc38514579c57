//! Closing: every way through the closing states, and orphans.

use super::*;

#[test]
fn the_active_closer_goes_through_time_wait() {
    let mut stage = Stage::established();
    stage.shut();
    assert_eq!(stage.state(), State::FinWait1);
    stage.sends(FIN_ACK, 0, 0);
    let _ = stage.hear(ACK, 0, 1, 0);
    assert_eq!(stage.state(), State::FinWait2);
    // Half-closed: data still comes.
    assert!(stage.hear(ACK, 0, 1, 100).deliver.is_some());
    let reaction = stage.hear(FIN_ACK, 100, 1, 0);
    assert!(reaction.events.remote_closed && reaction.events.time_wait);
    assert_eq!(stage.block.remote_end(), Some(100));
    assert_eq!(stage.sends(ACK, 1, 0).ack.get(), IRS + 102);
    // The FIN again: acknowledged again, and the wait begins anew.
    stage.wait(30_000);
    let again = stage.hear(FIN_ACK, 100, 1, 0);
    assert!(again.reply.is_some());
    let (waited, reaction) = stage.tick();
    assert_eq!(waited, TIME_WAIT);
    assert!(reaction.events.closed);
    assert_eq!(stage.block.failure(), None);
}

#[test]
fn the_passive_closer_goes_through_last_ack() {
    let mut stage = Stage::established();
    let reaction = stage.hear(FIN_ACK, 0, 0, 10);
    assert!(reaction.events.remote_closed && reaction.events.received);
    assert_eq!(stage.state(), State::CloseWait);
    assert_eq!(stage.sends(ACK, 0, 0).ack.get(), IRS + 12);
    stage.write(5);
    stage.sends(ACK, 0, 5);
    stage.shut();
    assert_eq!(stage.state(), State::LastAck);
    stage.sends(FIN_ACK, 5, 0);
    assert!(stage.hear(ACK, 11, 6, 0).events.closed);
    assert_eq!(stage.block.failure(), None);
}

#[test]
fn both_close_at_once() {
    let mut stage = Stage::established();
    stage.shut();
    stage.sends(FIN_ACK, 0, 0);
    let _ = stage.hear(FIN_ACK, 0, 0, 0);
    assert_eq!(stage.state(), State::Closing);
    stage.sends(ACK, 1, 0);
    let reaction = stage.hear(ACK, 1, 1, 0);
    assert!(reaction.events.time_wait);
    assert_eq!(stage.state(), State::TimeWait);
}

#[test]
fn a_fin_before_its_data_waits_for_it() {
    let mut stage = Stage::established();
    let _ = stage.hear(FIN_ACK, 100, 0, 50);
    assert_eq!((stage.state(), stage.block.remote_end()), (State::Established, None));
    stage.sends(ACK, 0, 0);
    let reaction = stage.hear(ACK, 0, 0, 100);
    assert!(reaction.events.remote_closed);
    assert_eq!(stage.block.remote_end(), Some(150));
    // Data behind the end is nobody's.
    let behind = stage.hear(ACK, 151, 0, 10);
    assert_eq!((behind.dropped, behind.deliver), (Some(DropReason::TcpClose), None));
}

#[test]
fn an_orphan_resets_late_data() {
    let mut stage = Stage::established();
    let reaction = stage.block.close(stage.now, 0);
    assert_eq!(reaction.reply, None);
    stage.sends(FIN_ACK, 0, 0);
    let _ = stage.hear(ACK, 0, 1, 0);
    let late = stage.hear(ACK, 0, 1, 10);
    assert!(late.events.closed && late.reply.is_some_and(|out| out.flags.rst()));
}

#[test]
fn an_orphan_in_fin_wait_2_ends_after_a_minute() {
    let mut stage = Stage::established();
    let _ = stage.block.close(stage.now, 0);
    stage.sends(FIN_ACK, 0, 0);
    let _ = stage.hear(ACK, 0, 1, 0);
    assert_eq!(stage.state(), State::FinWait2);
    let (waited, reaction) = stage.tick();
    assert_eq!(waited, Duration::from_secs(60));
    assert!(reaction.events.closed);
}

#[test]
fn closing_with_unread_data_resets() {
    let mut stage = Stage::established();
    let _ = stage.hear(ACK, 0, 0, 10);
    let reaction = stage.block.close(stage.now, 0);
    assert!(reaction.events.closed);
    assert!(reaction.reply.is_some_and(|out| out.flags.rst() && out.seq.get() == ISS + 1));
}

#[test]
fn time_wait_gives_way_to_a_newer_syn_and_to_nothing_else() {
    let mut stage = Stage::established();
    stage.shut();
    stage.sends(FIN_ACK, 0, 0);
    let _ = stage.hear(FIN_ACK, 0, 1, 0);
    stage.sends(ACK, 1, 0);
    assert_eq!(stage.hear(Flags::RST, 1, 1, 0).dropped, Some(DropReason::TcpInvalidRst));
    let old = stage.hear(Flags::SYN, -20, 0, 0);
    assert_eq!(old.reopen, None);
    let new = stage.hear(Flags::SYN, 5000, 0, 0);
    assert!(new.events.closed);
    let isn_min = new.reopen.expect("to the listener").isn_min;
    assert!(isn_min.after(SeqNum::new(ISS + 2)));
}

#[test]
fn a_close_still_queued_counts_as_after_the_remotes() {
    let mut stage = Stage::established();
    let _ = stage.hears(Segment { window: 0, ..stage.segment(ACK, 0, 0, 0) });
    stage.write(100);
    stage.shut();
    stage.silent();
    let _ = stage.hears(Segment { window: 0, ..stage.segment(FIN_ACK, 0, 0, 0) });
    assert_eq!(stage.state(), State::LastAck);
    stage.sends(ACK, 0, 0);
    stage.die(0);
    assert_eq!(stage.state(), State::LastAck);
    let _ = stage.hear(ACK, 1, 0, 0);
    stage.sends(FIN_ACK, 0, 100);
    assert!(stage.hear(ACK, 1, 101, 0).events.closed);
}

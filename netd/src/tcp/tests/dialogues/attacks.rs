//! Attacks: RFC 5961, RFC 7323 §5, RFC 5927.

use super::*;

#[test]
fn only_an_exact_rst_resets() {
    let mut stage = Stage::established();
    let near = stage.hear(Flags::RST, 5, 0, 0);
    assert_eq!(near.dropped, Some(DropReason::TcpInvalidRst));
    assert_eq!(near.reply.map(|out| out.flags), Some(ACK));
    let far = stage.hear(Flags::RST, 1 << 30, 0, 0);
    assert_eq!((far.dropped, far.reply), (Some(DropReason::TcpInvalidSequence), None));
    assert!(stage.hear(Flags::RST, 0, 0, 0).events.closed);
    assert_eq!(stage.block.failure(), Some(Failure::ConnectionReset));
}

#[test]
fn a_syn_is_only_challenged() {
    let mut stage = Stage::established();
    for seq in [0, 7] {
        let reaction = stage.hear(Flags::SYN, seq, 0, 0);
        assert_eq!(reaction.dropped, Some(DropReason::TcpInvalidSyn));
        assert_eq!(reaction.reply.map(|out| out.flags), Some(ACK));
        // Of a flood the connection answers one in half a second.
        assert_eq!(stage.hear(Flags::SYN, seq, 0, 0).reply, None);
        stage.wait(500);
    }
    assert_eq!(stage.state(), State::Established);
}

#[test]
fn an_acknowledgement_of_the_future_or_the_far_past_is_challenged() {
    let mut stage = Stage::established();
    for ack in [1, -70_000, 1 << 30] {
        let reaction = stage.hear(ACK, 0, ack, 10);
        assert_eq!(reaction.dropped, Some(DropReason::TcpAckUnsentData));
        assert_eq!(reaction.deliver, None);
        assert!(reaction.reply.is_some());
        stage.wait(500);
    }
    let none = stage.hear(Flags::NONE, 0, 0, 10);
    assert_eq!(none.dropped, Some(DropReason::TcpFlags));
}

#[test]
fn an_older_timestamp_is_dropped_and_acknowledged() {
    let mut stage = Stage::with(Settings { window_scaling: false, ..Settings::default() });
    let stamped = |stage: &Stage, value: u32, seq| Segment {
        options: Options { timestamps: Some(Timestamps { value, echo: 0 }), ..Options::NONE },
        ..stage.segment(ACK, seq, 0, 100)
    };
    let old = stage.hears(stamped(&stage, 69, 0));
    assert_eq!(old.dropped, Some(DropReason::TcpRfc7323Paws));
    assert!(old.reply.is_some() && old.deliver.is_none());
    assert!(stage.hears(stamped(&stage, 75, 0)).deliver.is_some());
    let ack = loop {
        if let Some(out) = stage.poll() {
            break out;
        }
        let _ = stage.tick();
    };
    assert_eq!(ack.options.timestamps.unwrap().echo, 75);
    // After 24 days of silence any value is taken.
    stage.wait(25 * 24 * 3600 * 1000);
    assert!(stage.hears(stamped(&stage, 1, 100)).deliver.is_some());
}

#[test]
fn icmp_ends_only_what_is_not_yet_open() {
    let mut stage = Stage::connecting(plain());
    stage.sends(Flags::SYN, 0, 0);
    let foreign = stage.block.on_icmp(stage.now, IcmpError::PortUnreachable, SeqNum::new(ISS + 9));
    assert!(!foreign.events.closed);
    let hit = stage.block.on_icmp(stage.now, IcmpError::HostUnreachable, SeqNum::new(ISS));
    assert!(hit.events.closed);
    assert_eq!(stage.block.failure(), Some(Failure::HostUnreachable));

    let mut stage = Stage::established();
    stage.write(1000);
    stage.sends(ACK, 0, 1000);
    let seq = SeqNum::new(ISS + 1);
    let soft = stage.block.on_icmp(stage.now, IcmpError::PortUnreachable, seq);
    assert!(!soft.events.closed);
    while !stage.tick().1.events.closed {
        while stage.poll().is_some() {}
    }
    assert_eq!(stage.block.failure(), Some(Failure::HostUnreachable));
}

#[test]
fn a_smaller_path_sends_again_in_smaller_pieces() {
    let mut stage = Stage::established();
    stage.write(1000);
    stage.sends(ACK, 0, 1000);
    let error = IcmpError::PacketTooBig { path_mss: 600 };
    let _ = stage.block.on_icmp(stage.now, error, SeqNum::new(ISS + 1));
    stage.sends(ACK, 0, 600);
    stage.sends(ACK, 600, 400);
    stage.silent();
    // Nobody talks it into crumbs.
    let error = IcmpError::PacketTooBig { path_mss: 0 };
    let _ = stage.block.on_icmp(stage.now, error, SeqNum::new(ISS + 1));
    assert_eq!(stage.block.path_mss(), 512);
}

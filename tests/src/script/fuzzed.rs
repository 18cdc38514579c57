//! The stack of the packet scripts under mutated input: see [`crate::fuzz`].

use super::host::{Host, PORT, REMOTE_PORT, octet};
use super::parse::{Script, Step};
use super::play::Play;
use super::wire::{self, Raw};
use proto::arena::line::want;
use std::time::Duration;

/// Batches in which a host must come to rest.
const BATCHES_MAX: u32 = 1000;

/// Numbers of one seed.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Of a seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    /// The next one (splitmix64).
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// True `permille` times in a thousand.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// Changes some octets: bits, borders, neighbours.
    pub fn spoil(&mut self, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len() as u64) as usize;
            bytes[at] = match self.below(5) {
                0 => bytes[at] ^ 1 << self.below(8),
                1 => 0,
                2 => 0xff,
                3 => bytes[at].wrapping_add(1),
                _ => self.draw() as u8,
            };
        }
    }
}

fn rest(host: &mut Host) {
    for _ in 0..BATCHES_MAX {
        let frames = host.batch();
        // Checks the checksums of whatever it says.
        frames.iter().for_each(|frame| drop(wire::segment(frame)));
        if frames.is_empty() {
            return;
        }
    }
    panic!("the stack talks for ever");
}

/// Time passes, a deadline after the other.
fn pass(host: &mut Host, span: Duration) {
    let end = host.now + span;
    for _ in 0..BATCHES_MAX {
        let Some(at) = host.deadline().filter(|at| *at <= end) else { break };
        host.now = host.now.max(at);
        rest(host);
    }
    host.now = host.now.max(end);
}

/// A frame of a script, changed: header or payload, cut or longer; most get a right checksum again, so that
/// they come further than the first door.
fn mutated(mut frame: Vec<u8>, dice: &mut Dice) -> Vec<u8> {
    match dice.below(10) {
        0 => frame.truncate(dice.below(frame.len() as u64 + 1) as usize),
        1 => frame.extend((0..1 + dice.below(64)).map(|n| n as u8)),
        _ => {
            let from = [0, 14, 34, 34, 34, 46][dice.below(6) as usize];
            let from = from.min(frame.len().saturating_sub(1));
            dice.spoil(&mut frame[from..]);
        }
    }
    if dice.chance(900) {
        wire::sum_again(&mut frame);
    }
    frame
}

/// Plays a script up to somewhere, with frames that are sometimes changed, doubled, or left out; what it
/// expects is not looked at.
pub fn frames(script: &Script, dice: &mut Dice) {
    let mut play = Play::new();
    let steps = 1 + dice.below(script.steps.len() as u64) as usize;
    for (_, step) in &script.steps[..steps] {
        if let (Step::Inject(seg), true) = (step, dice.chance(400)) {
            let Ok(frame) = play.frame_of(seg) else { continue };
            for _ in 0..1 + dice.below(3) {
                play.host_mut().receive(&mutated(frame.clone(), dice));
            }
            rest(play.host_mut());
        } else {
            // A script that expected otherwise has nothing to say here.
            let _ = play.step(step);
            play.forget_sent();
        }
        if dice.chance(100) {
            pass(play.host_mut(), Duration::from_millis(dice.below(3000)));
        }
        if dice.chance(30) {
            play.host_mut().die();
            rest(play.host_mut());
        }
    }
    pass(play.host_mut(), Duration::from_secs(dice.below(300)));
}

/// Fragments of a few packets, placed at random.
pub fn fragments(dice: &mut Dice) {
    let mut host = Host::new(1500);
    host.listen(0, 8);
    rest(&mut host);
    for _ in 0..1 + dice.below(60) {
        let len = match dice.below(4) {
            0 => dice.below(9),
            1 => 8 * dice.below(180),
            _ => dice.below(1480),
        } as usize;
        let payload: Vec<u8> = (0..len as u64).map(|n| octet(false, n)).collect();
        let protocol = [6, 17, 1, 58, 255][dice.below(5) as usize];
        let mut frame = wire::ip(protocol, 0, &payload);
        let place = [0, 1, 185, 8189, 8191, dice.below(8192)][dice.below(6) as usize];
        let flags = (dice.below(8) << 13) as u16 & 0x6000 | place as u16;
        frame[18..20].copy_from_slice(&(dice.below(3) as u16).to_be_bytes());
        frame[20..22].copy_from_slice(&flags.to_be_bytes());
        if dice.chance(100) {
            dice.spoil(&mut frame[14..34]);
        }
        wire::sum_header(&mut frame);
        host.receive(&frame);
        if dice.chance(100) {
            pass(&mut host, Duration::from_secs(dice.below(40)));
        }
    }
    rest(&mut host);
    pass(&mut host, Duration::from_secs(120));
}

/// A handshake and some segments whose options are anything.
pub fn options(dice: &mut Dice) {
    let mut host = Host::new(1500);
    host.listen(0, 8);
    rest(&mut host);
    let (mut iss, seq) = (0, dice.draw() as u32);
    for n in 0..2 + dice.below(12) {
        let mut options: Vec<u8> = Vec::new();
        while options.len() < 40 && dice.chance(850) {
            let kind = [0, 1, 2, 3, 4, 5, 8, 34, dice.draw() as u8][dice.below(9) as usize];
            let len = [0, 1, 2, 3, 4, 10, 12, 18, 34, dice.draw() as u8][dice.below(10) as usize];
            options.extend([kind, len]);
            options.extend((0..dice.below(12)).map(|_| dice.draw() as u8));
        }
        options.truncate(40);
        options.resize(options.len().div_ceil(4) * 4, 1);
        let flags = if n == 0 { 2 } else { [16, 24, 17, 18, 20, 2][dice.below(6) as usize] };
        let raw = Raw {
            from: REMOTE_PORT,
            to: PORT,
            seq: seq.wrapping_add(u32::from(n > 0)),
            ack: if n == 0 { 0 } else { u32::wrapping_add(iss, 1) },
            flags,
            window: dice.draw() as u16,
            options,
            payload: vec![0; dice.below(40) as usize],
            ..Raw::default()
        };
        host.receive(&wire::frame(&raw, false));
        for frame in host.batch() {
            if let Some(said) = wire::segment(&frame).filter(|said| said.flags & 2 != 0) {
                iss = said.seq;
            }
        }
        rest(&mut host);
    }
    pass(&mut host, Duration::from_secs(100));
}

/// Operations that a confused sockd might ask for.
pub fn commands(dice: &mut Dice) {
    let mut host = Host::new(1500);
    for _ in 0..1 + dice.below(8) {
        host.ask_anything(|| dice.draw());
        rest(&mut host);
    }
    pass(&mut host, Duration::from_secs(3));
}

/// A client that writes any word anywhere, kicks, and goes on as if nothing had been.
pub fn ring(dice: &mut Dice) {
    let mut host = Host::new(1500);
    host.listen(0, 8);
    host.connect(1);
    rest(&mut host);
    for _ in 0..1 + dice.below(40) {
        match dice.below(6) {
            0 => host.write(1, 1 + dice.below(3000) as u32, dice.chance(200)),
            1 => {
                let flags = dice.draw() as u32 & (want::CORK | want::NODELAY | want::SHUT_RD | want::URGENT);
                host.change(1, |line| line.flags |= flags);
            }
            2 => pass(&mut host, Duration::from_millis(dice.below(2000))),
            3 => {
                host.die();
            }
            _ => host.scribble(|| dice.draw()),
        }
        rest(&mut host);
    }
    host.die();
    rest(&mut host);
    pass(&mut host, Duration::from_secs(10));
}

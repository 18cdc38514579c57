//! A thousand sockets at one poll, in a process of its own: its descriptors are counted.

mod fake;

use fake::{at, pair, start_sized};
use libnetclient::poll::{Event, Poll, Trigger};
use libnetclient::{Ready, Size, TcpListener};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(10);

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc").count()
}

#[test]
fn a_thousand_sockets_cost_one_descriptor_and_lose_no_event() {
    const SOCKETS: u32 = 1000;
    const ROUNDS: usize = 20;
    let size = Size { active: 2 * SOCKETS, passive: SOCKETS, tx_pages: 4096, rx_pages: 4096 };
    let (session, _fake) = start_sized(size);
    let listener = TcpListener::bind_in(&session, at(80)).expect("bound");
    let before = descriptors();
    let poll = Poll::new().expect("a poll");
    let pairs: Vec<_> = (0..SOCKETS).map(|_| pair(&session, &listener)).collect();
    for (n, (_, server)) in pairs.iter().enumerate() {
        server.set_nonblocking(true).expect("set");
        poll.register(server, n as u64, Ready::READ, Trigger::Edge).expect("registered");
    }
    let more = descriptors() - before;
    assert!(more <= 4, "{more} descriptors for {SOCKETS} sockets");
    let done = AtomicUsize::new(0);
    let total = SOCKETS as usize * ROUNDS;
    // Two threads wait at the same poll; every byte is found by one of them.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut events = [Event::default(); 64];
                while done.load(Ordering::Acquire) < total {
                    let found = poll.wait(&mut events, Some(LONG)).expect("waited");
                    let finished = done.load(Ordering::Acquire) == total;
                    assert!(found > 0 || finished, "no event is lost: {}", done.load(Ordering::Acquire));
                    for event in &events[..found] {
                        let mut buf = [0; 64];
                        while let Ok(n) = (&pairs[event.token as usize].1).read(&mut buf) {
                            done.fetch_add(n, Ordering::AcqRel);
                        }
                    }
                }
                // The other one may sleep.
                poll.reregister(&pairs[0].1, 0, Ready::READ | Ready::WRITE, Trigger::Level).expect("woken");
            });
        }
        for _ in 0..ROUNDS {
            pairs.iter().for_each(|(client, _)| (&*client).write_all(b"x").expect("written"));
        }
    });
}

//! A web server by the kernel's sockets, with one file: a counter stream.

use super::counter;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Bytes written at a time.
const CHUNK: u64 = 1 << 16;

/// Serves the first `size` bytes of the counter stream of `seed` at `host`, to whoever asks, with a pause
/// after every 64 KiB; returns its port.
///
/// # Panics
/// When `host` is no address of this machine.
pub fn serve(host: &str, size: u64, seed: u64, pause: Duration) -> u16 {
    let listener = TcpListener::bind((host, 0)).expect("an address of this machine");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away is its test's to notice.
            std::thread::spawn(move || answer(stream, size, seed, pause).ok());
        }
    });
    port
}

fn answer(mut stream: TcpStream, size: u64, seed: u64, pause: Duration) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut chunk = vec![0; CHUNK as usize];
    for at in (0..size).step_by(CHUNK as usize) {
        let piece = &mut chunk[..CHUNK.min(size - at) as usize];
        counter::fill(seed, at, piece);
        stream.write_all(piece)?;
        std::thread::sleep(pause);
    }
    Ok(())
}

//! Serves one file over HTTP/1.1: `http_file FILE [PORT]`. A thread for each client.

use libnetclient::{TcpListener, TcpStream};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;

/// The longest request line or header that is read, in bytes.
const LINE_MAX: u64 = 8 * 1024;
/// Headers that are read of a request.
const HEADERS_MAX: usize = 100;

/// The request's method; `None` when the client hung up.
fn read_request(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    if reader.by_ref().take(LINE_MAX).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let method = line.split(' ').next().unwrap_or_default().to_owned();
    for _ in 0..HEADERS_MAX {
        line.clear();
        if reader.by_ref().take(LINE_MAX).read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            break;
        }
    }
    Ok(Some(method))
}

fn serve(mut stream: &TcpStream, path: &Path) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let Some(method) = read_request(&mut reader)? else { return Ok(()) };
    if method != "GET" && method != "HEAD" {
        return stream.write_all(
            b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET, HEAD\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    }
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    if method == "HEAD" {
        return Ok(());
    }
    let mut buf = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buf)? {
            0 => return Ok(()),
            n => stream.write_all(&buf[..n])?,
        }
    }
}

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(path), port) = (args.next(), args.next()) else {
        eprintln!("usage: http_file FILE [PORT]");
        std::process::exit(2);
    };
    let port = port.map_or(Ok(8080), |port| port.parse::<u16>());
    let port = port.map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "not a port"))?;
    let path = PathBuf::from(path);
    File::open(&path)?;
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, remote) = listener.accept()?;
        let path = path.clone();
        thread::spawn(move || {
            if let Err(error) = serve(&stream, &path) {
                eprintln!("http_file: {remote}: {error}");
            }
        });
    }
}

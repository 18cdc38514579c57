//! Joins standard input and output to a connection: `nc HOST PORT`, or `nc -l PORT` to wait for
//! one. The end of the input ends our direction only.

use libnetclient::{TcpListener, TcpStream};
use std::io::{self, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::thread;

fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buf = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buf)? {
            0 => return to.flush(),
            n => to.write_all(&buf[..n])?,
        }
        to.flush()?;
    }
}

fn open(args: &[String]) -> io::Result<Option<TcpStream>> {
    let port = |text: &str| {
        text.parse::<u16>().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "not a port"))
    };
    match args {
        [flag, listen] if flag == "-l" => {
            let listener = TcpListener::bind(("0.0.0.0", port(listen)?))?;
            eprintln!("listening on {}", listener.local_addr()?);
            Ok(Some(listener.accept()?.0))
        }
        [host, remote] => Ok(Some(TcpStream::connect((host.as_str(), port(remote)?))?)),
        _ => Ok(None),
    }
}

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(stream) = open(&args)? else {
        eprintln!("usage: nc HOST PORT | nc -l PORT");
        std::process::exit(2);
    };
    let sending = stream.try_clone()?;
    let sender = thread::spawn(move || {
        copy(io::stdin().lock(), &sending)?;
        sending.shutdown(Shutdown::Write)
    });
    copy(&stream, io::stdout().lock())?;
    // The remote has ended. A file is still sent to its end; nobody waits for what may be typed.
    if io::stdin().is_terminal() && !sender.is_finished() {
        return Ok(());
    }
    sender.join().expect("the sender does not panic")
}

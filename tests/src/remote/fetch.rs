//! A download of a file over HTTP: by the kernel's curl, or over a stream of a second group.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A download that is under way. curl is ended with its owner.
#[derive(Debug)]
pub struct Fetch {
    by: By,
    to: PathBuf,
    ended: Option<Result<(), String>>,
}

#[derive(Debug)]
enum By {
    Curl(Child),
    Thread(Option<JoinHandle<io::Result<()>>>),
}

impl Fetch {
    /// Starts curl on `url`, at most `bytes_per_second`, into the file `to`. One connection, no retry.
    ///
    /// # Errors
    /// When curl can't be started.
    pub fn curl(url: &str, bytes_per_second: u64, to: &Path) -> io::Result<Fetch> {
        let child = Command::new("curl")
            .args(["--silent", "--show-error", "--fail", "--no-buffer", "--max-time", "240"])
            .args(["--limit-rate", &bytes_per_second.to_string(), "--output"])
            .arg(to)
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Fetch { by: By::Curl(child), to: to.to_owned(), ended: None })
    }

    /// Asks for `/` over a connected stream that blocks, in a thread.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub fn over(
        stream: impl Read + Write + Send + 'static,
        bytes_per_second: u64,
        to: &Path,
    ) -> io::Result<Fetch> {
        let path = to.to_owned();
        let thread = std::thread::Builder::new()
            .name("fetch".into())
            .spawn(move || download(stream, bytes_per_second, &path))?;
        Ok(Fetch { by: By::Thread(Some(thread)), to: to.to_owned(), ended: None })
    }

    /// Bytes on disk so far.
    pub fn bytes(&self) -> u64 {
        std::fs::metadata(&self.to).map_or(0, |meta| meta.len())
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<Result<(), String>> {
        if self.ended.is_none() {
            self.ended = match &mut self.by {
                By::Curl(child) => match child.try_wait() {
                    Ok(None) => None,
                    Ok(Some(status)) if status.success() => Some(Ok(())),
                    Ok(Some(status)) => Some(Err(format!("curl: {status}"))),
                    Err(error) => Some(Err(error.to_string())),
                },
                By::Thread(thread) => thread.take_if(|thread| thread.is_finished()).map(|thread| {
                    let panicked = |_| Err(io::Error::other("the download's thread panicked"));
                    thread.join().unwrap_or_else(panicked).map_err(|error| error.to_string())
                }),
            };
        }
        self.ended.clone()
    }
}

fn download(stream: impl Read + Write, bytes_per_second: u64, to: &Path) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(64 * 1024, stream);
    stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: axolotl\r\nConnection: close\r\n\r\n")?;
    let (mut line, mut length, mut status) = (String::new(), None, String::new());
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if status.is_empty() {
            status.clone_from(&line);
        }
        let header = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        length = header.and_then(|(_, value)| value.trim().parse::<u64>().ok()).or(length);
    }
    let length = length.filter(|_| status.contains(" 200"));
    let length = length.ok_or_else(|| io::Error::other(format!("an answer of another kind: {status}")))?;
    let (mut file, begun, mut done) = (File::create(to)?, Instant::now(), 0);
    let mut chunk = vec![0; 64 * 1024];
    while done < length {
        let n = stream.read(&mut chunk)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.write_all(&chunk[..n])?;
        done += n as u64;
        let due = Duration::from_secs_f64(done as f64 / bytes_per_second as f64);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    Ok(())
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if let By::Curl(child) = &mut self.by {
            // Already gone is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

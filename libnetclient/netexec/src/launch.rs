//! Becoming the program: what was started as netexec is the program itself in the end, with its number,
//! parent, terminal, signals and exit status; the server is a process of its own, nobody's child.
//!
//! ```text
//! netexec ──fork──► (session of its own) ──fork──► server: opens the session, says so,
//!    │                                               │     fetches the listener
//!    └─ waits for the word, installs the filter, tells the listener's number, ─┘
//!       waits for the next word, execs the program
//! ```

#![expect(unsafe_code, reason = "fork(2) and _exit(2)")]

use crate::filter;
use crate::holder;
use crate::ledger::{self, Header, Ledger};
use crate::notices::Notices;
use crate::pump;
use crate::shown::Shown;
use libnetclient::resume::Kept;
use rustix::event::EventfdFlags;
use rustix::fd::{AsRawFd, IntoRawFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use thiserror::Error;
use zerocopy::FromZeros;

/// What the server says when it is ready, and when it has the listener.
const READY: u8 = b'r';
/// Sockets of connect, listen and UDP, and accepted connections, that the programs may have at a time.
const SOCKETS: u32 = 4096;
/// Pages of 16 KiB each way: 64 MiB of address space, used as they are needed.
const PAGES: u32 = 4096;

/// What is asked for beside the program.
#[derive(Debug)]
pub struct Options {
    /// The group.
    pub name: String,
    /// Say what is answered.
    pub verbose: bool,
    /// How its calls come to the server.
    pub way: Way,
}

/// How the calls of programs come to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By the filter, and in dynamic programs past the preload library, where that can be loaded.
    Best,
    /// By the filter alone.
    Filter,
    /// As [`Way::Best`], and not at all where the library can't be loaded.
    Library,
}

/// Why the program was not started.
#[derive(Debug, Error)]
pub enum Failure {
    /// There is nothing to run it on.
    #[error("no group '{0}' is running: Network is down (ENETDOWN). Start one: ./run.sh up --name {0}")]
    NotRunning(String),
    /// The group refuses a client.
    #[error("{0}")]
    Session(String),
    /// It was asked for.
    #[error("{0}: the preload library can't be loaded into {1}")]
    NoLibrary(String, PathBuf),
    /// setuid(2) has no effect behind a filter.
    #[error("{0} is a setuid or setgid program: it would run without its rights, so it is not run")]
    SetUser(PathBuf),
    /// A system call that must not fail.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// As env(1) has it.
    #[error("{}: {source}", program.display())]
    Exec {
        /// What was to be run.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Failure {
    /// INTERFACES' codes, and env(1)'s for the program.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::NotRunning(_) => 3,
            Failure::NoLibrary(..) => 5,
            Failure::Session(_) | Failure::System { .. } => 1,
            Failure::SetUser(_) => 126,
            Failure::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Failure::Exec { .. } => 126,
        }
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |source| Failure::System { what, source }
}

/// Becomes `command` on the stack; returns only when that fails.
pub fn run(options: &Options, command: &[OsString]) -> Failure {
    match prepare(options, command) {
        Ok(environment) => {
            let program = PathBuf::from(&command[0]);
            let source = Command::new(&program).args(&command[1..]).envs(environment).exec();
            Failure::Exec { program, source }
        }
        Err(failure) => failure,
    }
}

/// Starts the server and installs the filter; returns what the program's environment needs.
fn prepare(options: &Options, command: &[OsString]) -> Result<Environment, Failure> {
    let place = proto::run_dir::RunDir::find(&options.name);
    let place = place.ok_or_else(|| Failure::NotRunning(options.name.clone()))?;
    if let Some(path) = resolve(&command[0]).filter(|path| changes_user(path)) {
        return Err(Failure::SetUser(path));
    }
    let library = library_for(options.way, &command[0])?;
    let (mut lane, servers) = UnixStream::pair().map_err(system("socketpair"))?;
    let program = rustix::process::getpid();
    // SAFETY: no other thread runs yet.
    match unsafe { libc::fork() } {
        -1 => return Err(system("fork")(io::Error::last_os_error())),
        0 => {
            drop(lane);
            begin_server(options, &place.api(), servers, program)
        }
        between => {
            drop(servers);
            // It ends at once, whatever it did.
            let _ = rustix::process::waitpid(Pid::from_raw(between), rustix::process::WaitOptions::empty());
        }
    }
    hear(&mut lane)?;
    let listener = filter::install().map_err(system("seccomp"))?;
    lane.write_all(&listener.as_raw_fd().to_ne_bytes()).map_err(system("tell the server"))?;
    hear(&mut lane)?;
    let mut place = String::new();
    lane.read_to_string(&mut place).map_err(system("hear of the board"))?;
    Ok(library.map_or(Vec::new(), |library| environment(&library, &place, std::env::var_os(PRELOAD))))
    // The listener closes here; the server has its own descriptor.
}

/// What is put into the environment of a program.
type Environment = Vec<(&'static str, OsString)>;

/// The loader's list of libraries that are loaded first (ld.so(8)): blanks and colons stand between them.
const PRELOAD: &str = "LD_PRELOAD";

/// Behind what the user has there already: his library's calls then come to this one.
fn environment(library: &Path, place: &str, before: Option<OsString>) -> Environment {
    let mut list = before.unwrap_or_default();
    if !list.is_empty() {
        list.push(":");
    }
    list.push(library);
    vec![(PRELOAD, list), (proto::board::VARIABLE, place.into())]
}

/// The preload library, beside this program, for a program that can have it. One that is static is none, and loads
/// nothing, but what it starts may.
///
/// # Errors
/// When it was asked for and can't be had.
fn library_for(way: Way, program: &OsStr) -> Result<Option<PathBuf>, Failure> {
    if way == Way::Filter {
        return Ok(None);
    }
    let beside = std::env::current_exe().map(|own| own.with_file_name(LIBRARY));
    let list =
        |path: &PathBuf| path.as_os_str().as_encoded_bytes().iter().all(|octet| !b" :".contains(octet));
    let found = beside.ok().filter(|path| path.is_file() && list(path));
    let program = resolve(program).unwrap_or_default();
    let loader = loader_of(&program);
    let refuse = |why: &str| match way {
        Way::Library => Err(Failure::NoLibrary(why.to_owned(), program.clone())),
        _ => Ok(None),
    };
    match (found, loader) {
        (None, _) => refuse("no usable libaxolotl_preload.so beside netexec"),
        (Some(_), Loader::Other) => refuse("its C library is another one"),
        (Some(_), Loader::None) if way == Way::Library => refuse("static"),
        (Some(library), _) => Ok(Some(library)),
    }
}

/// The library's file.
const LIBRARY: &str = "libaxolotl_preload.so";

/// Who loads a program.
#[derive(Debug, PartialEq, Eq)]
enum Loader {
    /// The GNU C library's, or that of a script's interpreter.
    Gnu,
    /// Another one.
    Other,
    /// Nobody: it is static.
    None,
}

/// By the path of its loader, which stands in the first page of a dynamic program (elf(5), PT_INTERP).
fn loader_of(program: &Path) -> Loader {
    let mut page = Vec::new();
    // What can't be read can't be run either, and that is said then.
    let _ = std::fs::File::open(program).and_then(|file| file.take(4096).read_to_end(&mut page));
    let says = |text: &[u8]| page.windows(text.len()).any(|window| window == text);
    match () {
        () if !page.starts_with(b"\x7fELF") || says(b"/ld-linux") => Loader::Gnu,
        () if says(b"/ld-") => Loader::Other,
        () => Loader::None,
    }
}

/// Waits for the server's word; anything else is what went wrong.
fn hear(lane: &mut UnixStream) -> Result<(), Failure> {
    let mut word = [0];
    lane.read_exact(&mut word).map_err(system("hear of the server"))?;
    if word[0] == READY {
        return Ok(());
    }
    let mut text = String::new();
    // What it could not say is not known.
    let _ = lane.read_to_string(&mut text);
    Err(Failure::Session(text))
}

/// Where execvp(3) would find a program.
fn resolve(program: &OsStr) -> Option<PathBuf> {
    if Path::new(program).components().count() > 1 {
        return Some(program.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// S_ISUID or S_ISGID of another user or group.
fn changes_user(path: &Path) -> bool {
    let Ok(meta) = path.metadata() else { return false };
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    (meta.mode() & libc::S_ISUID != 0 && meta.uid() != uid)
        || (meta.mode() & libc::S_ISGID != 0 && meta.gid() != gid)
}

fn exit(code: i32) -> ! {
    // SAFETY: ends this process without running what belongs to the one it was forked from.
    unsafe { libc::_exit(code) }
}

/// In the child: becomes nobody's child, in a session of its own.
fn begin_server(options: &Options, api: &Path, lane: UnixStream, program: Pid) -> ! {
    // The leader of a process group can't be one; a fresh child never is.
    let _ = rustix::process::setsid();
    // SAFETY: as above.
    match unsafe { libc::fork() } {
        0 => exit(serve(options, api, lane, program)),
        -1 => exit(1),
        _ => exit(0),
    }
}

/// Closes what the program's parent had open, so that nobody waits for this process to end: all but
/// `kept`, and standard error when there is something to say.
fn let_go(kept: &UnixStream, verbose: bool) -> io::Result<()> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    if !verbose {
        rustix::stdio::dup2_stderr(&null)?;
    }
    let keep = kept.as_raw_fd().cast_unsigned();
    for (from, to) in [(3, keep.wrapping_sub(1)), (keep + 1, u32::MAX)] {
        if from <= to {
            // SAFETY: nothing in this process owns a descriptor but the lane, and `null`, which is
            // forgotten below.
            unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
        }
    }
    core::mem::forget(null);
    Ok(())
}

fn serve(options: &Options, api: &Path, mut lane: UnixStream, program: Pid) -> i32 {
    let attached = let_go(&lane, options.verbose)
        .map_err(|error| error.to_string())
        .and_then(|()| attach(options, api, &mut lane, program));
    let (ledger, shown, notices) = match attached {
        Ok(attached) => attached,
        Err(text) => {
            // Whoever does not hear it sees the end of the lane.
            let _ = lane.write_all(b"e").and_then(|()| lane.write_all(text.as_bytes()));
            return 1;
        }
    };
    let told = shown.place().and_then(|place| {
        lane.write_all(&[READY])?;
        lane.write_all(place.as_encoded_bytes())
    });
    if told.is_err() {
        return 1;
    }
    drop(lane);
    match holder::hold(&ledger, &shown, &notices) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("netexec: {error}");
            1
        }
    }
}

/// Opens the session, takes over the listener, and writes down what servers begin with.
fn attach(
    options: &Options,
    api: &Path,
    lane: &mut UnixStream,
    program: Pid,
) -> Result<(Ledger, Shown, Notices), String> {
    let text = |error: io::Error| error.to_string();
    // As many descriptors as are allowed: every socket of a program costs one here.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let all = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Fewer will do until they are used up, which is EMFILE for the program.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, all);
    let size = libnetclient::Size { active: SOCKETS, passive: SOCKETS, tx_pages: PAGES, rx_pages: PAGES };
    let (session, kept) = libnetclient::Session::at_kept(api, size).map_err(text)?;
    // It lives by what is kept of it.
    drop(session);
    lane.write_all(&[READY]).map_err(text)?;
    let mut number = [0; 4];
    lane.read_exact(&mut number).map_err(text)?;
    let process = rustix::process::pidfd_open(program, PidfdFlags::empty()).map_err(|e| text(e.into()))?;
    let number = i32::from_ne_bytes(number);
    let listener: OwnedFd =
        rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty()).map_err(|errno| {
            format!("the system does not let a process look into another one of its user: {errno}")
        })?;
    let shown = Shown::new().map_err(text)?;
    let ledger = begin_ledger(options, kept, &listener, &shown).map_err(text)?;
    let notices = Notices::new(listener);
    notices.answer_on_the_callers_core();
    Ok((ledger, shown, notices))
}

/// The ledger of a session that nobody has used. The descriptors in it stay open for good.
fn begin_ledger(options: &Options, kept: Kept, listener: &OwnedFd, shown: &Shown) -> io::Result<Ledger> {
    let memory = ledger::create()?;
    let ledger = Ledger::map(&memory)?;
    let (out, into) = pump::make_pipe()?;
    let eventfd = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let mut header = Header {
        control: kept.control.into_raw_fd(),
        arena: kept.arena.into_raw_fd(),
        wake: kept.wake.into_raw_fd(),
        listener: listener.as_raw_fd(),
        pipe_out: out.into_raw_fd(),
        pipe_in: into.into_raw_fd(),
        errand: eventfd()?.into_raw_fd(),
        done: eventfd()?.into_raw_fd(),
        ledger: memory.into_raw_fd(),
        board: shown.number(),
        session: kept.id.0,
        geometry: ledger::geometry_words(&kept.geometry),
        flags: if options.verbose { ledger::VERBOSE } else { 0 },
        ..Header::new_zeroed()
    };
    for (place, pipe) in header.pipes.iter_mut().zip(kept.pipes) {
        *place = pipe.into_raw_fd();
    }
    let name = options.name.as_bytes();
    let len = name.len().min(header.group.len());
    header.group[..len].copy_from_slice(&name[..len]);
    // The first request was the one that opened the session.
    ledger.begin(&header, 1);
    Ok(ledger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_loader_says_whether_it_can_have_the_library() {
        let dir = std::env::temp_dir().join(format!("axlloader{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let loader = |content: &str| {
            let file = dir.join("program");
            std::fs::write(&file, content).expect("written");
            loader_of(&file)
        };
        assert_eq!(loader("\x7fELF...\0/lib64/ld-linux-x86-64.so.2\0"), Loader::Gnu);
        assert_eq!(loader("\x7fELF...\0/lib/ld-musl-x86_64.so.1\0"), Loader::Other);
        assert_eq!(loader("\x7fELF..."), Loader::None);
        assert_eq!(loader("#!/bin/sh\n"), Loader::Gnu, "a script's interpreter");
        assert_eq!(loader_of(&std::env::current_exe().expect("this test")), Loader::Gnu);
        std::fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn a_users_own_library_comes_first() {
        let of = |before: Option<&str>| {
            environment(Path::new("/lib/ours.so"), "7:/proc/1/fd/9", before.map(OsString::from))
        };
        let place = (proto::board::VARIABLE, OsString::from("7:/proc/1/fd/9"));
        for (before, want) in
            [(None, "/lib/ours.so"), (Some(""), "/lib/ours.so"), (Some("own.so"), "own.so:/lib/ours.so")]
        {
            assert_eq!(of(before), [(PRELOAD, OsString::from(want)), place.clone()]);
        }
    }
}

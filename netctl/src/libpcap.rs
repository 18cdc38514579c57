//! The compiler of filter expressions (pcap-filter(7)): libpcap's, loaded when an expression asks for it.
//!
//! Owns nothing beyond a call. It is loaded and not linked, because nothing else of netctl wants it: a machine
//! without it has every other verb, and a static netctl is built without it. What it compiles is copied,
//! checked as any program that comes from outside, and run by our own machine ([`proto::bpf`]).
#![expect(unsafe_code, reason = "a C library has no safe calls")]

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use core::ptr;
use libloading::{Library, Symbol};
use proto::arena::wishes::Instruction;
use proto::bpf::Program;
use proto::capture::SNAP_MAX;
use std::ffi::CString;

/// Its names: Debian's, and everybody else's.
const NAMES: [&str; 2] = ["libpcap.so.0.8", "libpcap.so.1"];
/// LINKTYPE_ETHERNET.
const ETHERNET: c_int = 1;
/// PCAP_NETMASK_UNKNOWN: `ip broadcast` is refused, for an interface may have several networks.
const NETMASK_UNKNOWN: c_uint = c_uint::MAX;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawInstruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

/// `struct bpf_program`.
#[repr(C)]
struct RawProgram {
    len: c_uint,
    instructions: *mut RawInstruction,
}

type OpenDead = unsafe extern "C" fn(c_int, c_int) -> *mut c_void;
type Compile = unsafe extern "C" fn(*mut c_void, *mut RawProgram, *const c_char, c_int, c_uint) -> c_int;
type GetError = unsafe extern "C" fn(*mut c_void) -> *const c_char;
type FreeCode = unsafe extern "C" fn(*mut RawProgram);
type Close = unsafe extern "C" fn(*mut c_void);

/// Why there is no program.
#[derive(Debug, thiserror::Error)]
pub enum NoProgram {
    /// The library is not on this machine.
    #[error(
        "filter expressions are compiled by libpcap, which is not here ({0}). Remedy: apt-get install libpcap0.8"
    )]
    NoLibrary(String),
    /// It can't be compiled.
    #[error("'{expression}': {reason}")]
    Expression {
        /// What was asked for.
        expression: String,
        /// What libpcap says of it.
        reason: String,
    },
}

/// The functions that are called; their library stays loaded as long as they are.
struct Functions<'a> {
    open_dead: Symbol<'a, OpenDead>,
    compile: Symbol<'a, Compile>,
    get_error: Symbol<'a, GetError>,
    free_code: Symbol<'a, FreeCode>,
    close: Symbol<'a, Close>,
}

fn library() -> Result<Library, libloading::Error> {
    let load = |name: &str| {
        // SAFETY: libpcap's initialisers do nothing but set up what it needs itself; it has no finalisers.
        unsafe { Library::new(name) }
    };
    load(NAMES[0]).or_else(|first| load(NAMES[1]).map_err(|_| first))
}

impl<'a> Functions<'a> {
    fn find(library: &'a Library) -> Result<Functions<'a>, libloading::Error> {
        Ok(Functions {
            // SAFETY: pcap_open_dead(3) has this signature.
            open_dead: unsafe { library.get(b"pcap_open_dead\0") }?,
            // SAFETY: pcap_compile(3) has this signature.
            compile: unsafe { library.get(b"pcap_compile\0") }?,
            // SAFETY: pcap_geterr(3) has this signature.
            get_error: unsafe { library.get(b"pcap_geterr\0") }?,
            // SAFETY: pcap_freecode(3) has this signature.
            free_code: unsafe { library.get(b"pcap_freecode\0") }?,
            // SAFETY: pcap_close(3) has this signature.
            close: unsafe { library.get(b"pcap_close\0") }?,
        })
    }

    /// The program of an expression for frames of Ethernet, or what the library says of it.
    fn compiled(&self, expression: &CStr) -> Result<Vec<Instruction>, String> {
        // SAFETY: it takes two numbers and opens nothing.
        let handle = unsafe { (self.open_dead)(ETHERNET, SNAP_MAX as c_int) };
        if handle.is_null() {
            return Err("libpcap has no memory".into());
        }
        let mut raw = RawProgram { len: 0, instructions: ptr::null_mut() };
        let optimised = 1;
        // SAFETY: the handle is open, `raw` is ours to be written, the expression ends with a NUL.
        let status =
            unsafe { (self.compile)(handle, &mut raw, expression.as_ptr(), optimised, NETMASK_UNKNOWN) };
        let outcome = if status == 0 {
            let code = instructions(&raw);
            // SAFETY: it was filled by a compilation that succeeded, and is freed once.
            unsafe { (self.free_code)(&mut raw) };
            Ok(code)
        } else {
            // SAFETY: the handle is open.
            let said = unsafe { (self.get_error)(handle) };
            // SAFETY: a text in the handle that ends with a NUL and lives as long as that.
            let said = unsafe { CStr::from_ptr(said) };
            Err(said.to_string_lossy().into_owned())
        };
        // SAFETY: the handle is open, and nothing of it is used after this.
        unsafe { (self.close)(handle) };
        outcome
    }
}

/// A copy of what was compiled.
fn instructions(raw: &RawProgram) -> Vec<Instruction> {
    if raw.instructions.is_null() {
        return Vec::new();
    }
    // SAFETY: the library has written so many instructions there, and nobody writes them any more.
    let code = unsafe { core::slice::from_raw_parts(raw.instructions, raw.len as usize) };
    code.iter().map(|&RawInstruction { code, jt, jf, k }| Instruction { code, jt, jf, k }).collect()
}

/// Compiles an expression for frames of Ethernet; names in it are looked up by this machine.
///
/// # Errors
/// [`NoProgram`].
pub fn compile(expression: &str) -> Result<Program, NoProgram> {
    let refused = |reason: String| NoProgram::Expression { expression: expression.into(), reason };
    let text = CString::new(expression).map_err(|_| refused("a NUL in it".into()))?;
    let library = library().map_err(|e| NoProgram::NoLibrary(e.to_string()))?;
    let functions = Functions::find(&library).map_err(|e| NoProgram::NoLibrary(e.to_string()))?;
    let code = functions.compiled(&text).map_err(refused)?;
    Program::new(&code).map_err(|bad| refused(bad.to_string()))
}

//! `include/netclient.h` is made from the sources: this test makes it again and compares.
//! `AXOLOTL_WRITE=1 cargo test -p netclient --test header` writes it.

use std::path::Path;

/// The files with calls, in the order of the header.
const SOURCES: &[&str] = &["names", "transfer", "in_place", "options", "poll", "epoll"];

const HEAD: &str = r#"/* The socket calls of POSIX on the Axolotl stack. Made from the sources; do not edit.
 *
 * Link with -lnetclient (pkg-config netclient). Each call does what its namesake without nc_ does;
 * descriptors that are not ours are passed on to the kernel's. See the README for what differs. */
#ifndef NETCLIENT_H
#define NETCLIENT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <poll.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif
"#;

const TAIL: &str = r#"
#ifdef __cplusplus
}
#endif

#endif
"#;

fn name_of(rust: &str) -> String {
    let plain = match rust {
        "c_int" => "int",
        "c_uint" => "unsigned int",
        "c_ulong" => "unsigned long",
        "c_char" => "char",
        "c_void" => "void",
        "sockaddr" | "iovec" | "msghdr" | "mmsghdr" | "timespec" | "pollfd" | "epoll_event" => {
            return format!("struct {rust}");
        }
        "size_t" | "ssize_t" | "socklen_t" | "off_t" | "nfds_t" => rust,
        other => panic!("no C type is known for {other}"),
    };
    plain.to_owned()
}

/// A Rust type with the name of a parameter, or of a function, as C has it.
fn declared(rust: &str, name: &str) -> String {
    match (rust.strip_prefix("*const "), rust.strip_prefix("*mut ")) {
        (Some(to), _) => format!("const {} *{name}", name_of(to)),
        (_, Some(to)) => format!("{} *{name}", name_of(to)),
        _ => format!("{} {name}", name_of(rust)),
    }
}

/// One function: its documentation, then its declaration.
fn function(doc: &[&str], signature: &str) -> String {
    let (name, rest) = signature.split_once('(').expect("parameters");
    let (parameters, result) = rest.split_once(") -> ").expect("a result");
    let mut list: Vec<String> = parameters
        .split(',')
        .filter_map(|parameter| parameter.trim().split_once(": "))
        .map(|(name, rust)| declared(rust, name))
        .collect();
    // The last of these is optional in C: it comes in the same register either way.
    if ["nc_fcntl", "nc_ioctl"].contains(&name) {
        *list.last_mut().expect("parameters") = "...".to_owned();
    }
    let text: Vec<&str> = doc.iter().take_while(|line| !line.starts_with("# Safety")).copied().collect();
    let text = text.join("\n * ").replace(['[', ']', '`'], "");
    format!(
        "\n/* {} */\n{}({});\n",
        text.trim_end_matches(['\n', ' ', '*']),
        declared(result, name),
        list.join(", ")
    )
}

fn made() -> String {
    let mut header = HEAD.to_owned();
    for source in SOURCES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(source).with_extension("rs");
        let text = std::fs::read_to_string(path).expect("a source");
        let (mut doc, mut open) = (Vec::new(), None::<String>);
        for line in text.lines() {
            if let Some(words) = line.strip_prefix("///") {
                doc.push(words.trim());
            } else if let Some(rest) =
                line.strip_prefix("pub unsafe extern \"C\" fn ").or(line.strip_prefix("pub extern \"C\" fn "))
            {
                open = Some(rest.to_owned());
            } else if let Some(open) = &mut open {
                open.push_str(line.trim());
                open.push(' ');
            } else if !line.starts_with("#[") {
                doc.clear();
            }
            if let Some(signature) = open.take_if(|open| open.trim_end().ends_with('{')) {
                header += &function(&doc, signature.trim_end().trim_end_matches('{').trim_end());
                doc.clear();
            }
        }
    }
    header + TAIL
}

#[test]
fn the_header_is_what_the_sources_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/netclient.h");
    let made = made();
    if std::env::var_os("AXOLOTL_WRITE").is_some() {
        std::fs::write(&path, &made).expect("written");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == made, "out of date: AXOLOTL_WRITE=1 cargo test -p netclient --test header");
    assert!(made.matches("\n/* ").count() >= 36, "every call is in it");
}

//! `netctl man` and `netctl completions`: pages for man(1) and words for shells, made of the arguments
//! themselves, so that they can't say anything else.

use crate::group::Failure;
use clap::Command;
use clap_complete::Shell;
use std::io::Write;
use std::path::Path;

/// Writes a page for the program and one for each verb into a directory, which is made if it is not there.
///
/// # Errors
/// When they can't be written.
pub fn man(command: Command, dir: &Path) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(command, dir));
    written.map_err(|e| Failure::Io("the pages", e))
}

/// Writes what a shell is told to complete.
///
/// # Errors
/// When it can't be written.
pub fn completions(mut command: Command, shell: Shell, out: &mut impl Write) -> Result<(), Failure> {
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    out.write_all(&text).map_err(|e| Failure::Io("standard output", e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::{CommandFactory, ValueEnum};

    #[test]
    fn every_verb_has_its_page() {
        let dir = std::env::temp_dir().join(format!("axl-man-{}", std::process::id()));
        man(Cli::command(), &dir.join("man1")).expect("room");
        let page = |name: &str| std::fs::read_to_string(dir.join("man1").join(name)).expect("a page");
        assert!(page("netctl.1").contains(".TH netctl 1"));
        for verb in Cli::command().get_subcommands() {
            let page = page(&format!("netctl-{}.1", verb.get_name()));
            let about = verb.get_about().expect("every verb says what it does").to_string();
            let first = about.split(|c: char| !c.is_ascii_alphabetic()).next().expect("a word");
            assert!(page.contains(first), "{}: {page}", verb.get_name());
        }
        std::fs::remove_dir_all(&dir).expect("it was made above");
    }

    #[test]
    fn every_shell_is_told_every_verb() {
        for shell in Shell::value_variants() {
            let mut text = Vec::new();
            completions(Cli::command(), *shell, &mut text).expect("memory");
            let text = String::from_utf8(text).expect("text");
            for verb in Cli::command().get_subcommands() {
                assert!(text.contains(verb.get_name()), "{shell}: {}", verb.get_name());
            }
        }
    }

    #[test]
    fn bash_understands_what_it_is_told() {
        let mut text = Vec::new();
        completions(Cli::command(), Shell::Bash, &mut text).expect("memory");
        let script = format!(
            "{}\nCOMP_WORDS=(netctl stat) COMP_CWORD=1\n_netctl netctl stat netctl\necho \"${{COMPREPLY[@]}}\"",
            String::from_utf8(text).expect("text")
        );
        let Ok(output) = std::process::Command::new("bash").args(["-c", &script]).output() else {
            return println!("SKIPPED bash_understands_what_it_is_told: no bash");
        };
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "status stats");
    }
}

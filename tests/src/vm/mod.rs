//! A guest under QEMU with a NIC of its own, driven from user space there, and this machine's kernel at the
//! other end of its cable.
//!
//! The guest is Debian's kernel, busybox and the daemons in an initramfs (`tests/vm/`); its first process
//! takes one command at a time from a serial line. The NIC's cable is a TAP in the network namespace of the
//! caller; unplugging and link flaps are asked of QEMU over QMP.

use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Exit code of `prepare.sh` where a guest can't be had.
const CANNOT: i32 = 5;

/// Where the guest's parts are, or why they can't be had here.
///
/// # Errors
/// The reason.
pub fn prepare() -> Result<PathBuf, String> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a tree above");
    let output = Command::new(top.join("tests/vm/prepare.sh")).current_dir(top).output();
    let output = output.map_err(|e| format!("tests/vm/prepare.sh: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => {
            let text = String::from_utf8_lossy(&output.stdout);
            Ok(text.lines().last().unwrap_or_default().into())
        }
        Some(CANNOT) => Err(said.lines().last().unwrap_or("no reason given").to_owned()),
        _ => panic!("tests/vm/prepare.sh failed:\n{said}"),
    }
}

/// How the NIC is plugged in.
const PLUGGED: &str = "netdev=cable,id=nic,bus=rp0,mac=02:00:00:00:aa:01,romfile=";

/// A guest that runs.
pub struct Guest {
    qemu: Child,
    shell: BufReader<UnixStream>,
    qmp: BufReader<UnixStream>,
    dir: PathBuf,
    /// The NIC, as QEMU calls it with its options.
    device: String,
    /// The NIC's PCI address.
    pub bdf: &'static str,
}

/// What a command in the guest came to.
#[derive(Debug, Clone)]
pub struct Said {
    /// Its exit status.
    pub status: i32,
    /// Everything it wrote.
    pub text: String,
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match UnixStream::connect(path) {
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            outcome => return outcome,
        }
    }
}

impl Guest {
    /// Boots a guest with a NIC that QEMU calls `device` (with its options), plugged into TAP `tap`, which has so many
    /// queues.
    ///
    /// # Errors
    /// When QEMU does not start.
    ///
    /// # Panics
    /// When the guest does not come up within a minute.
    pub fn boot(parts: &Path, device: &str, tap: &str, queues: u16) -> io::Result<Guest> {
        let dir = std::env::temp_dir().join(format!("axl-vm-{}-{tap}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let [shell, qmp, log] = ["shell", "qmp", "console"].map(|name| dir.join(name));
        let qemu = Command::new(parts.join("qemu"))
            .args("-accel tcg,thread=multi -cpu max -smp 1 -m 768 -nodefaults -no-user-config".split(' '))
            .args(
                "-display none -no-reboot -machine q35 -device intel-iommu,intremap=on,caching-mode=on"
                    .split(' '),
            )
            .args(["-serial", &format!("file:{}", log.display())])
            .args(["-chardev", &format!("socket,id=shell,path={},server=on,wait=on", shell.display())])
            .args(["-serial", "chardev:shell"])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", qmp.display())])
            .args(["-device", "pcie-root-port,id=rp0,bus=pcie.0,addr=4.0,chassis=1"])
            .args(["-netdev", &format!("tap,id=cable,ifname={tap},script=no,downscript=no,queues={queues}")])
            .args(["-device", &format!("{device},{PLUGGED}")])
            .arg("-kernel")
            .arg(parts.join("vmlinuz"))
            .arg("-initrd")
            .arg(parts.join("initrd"))
            .args(["-append", "console=ttyS0 panic=-1 quiet no_timer_check intel_iommu=on rdinit=/init"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.join("qemu.log"))?)
            .spawn()?;
        let shell = connect(&shell)?;
        shell.set_read_timeout(Some(Duration::from_secs(60)))?;
        let qmp = connect(&qmp)?;
        qmp.set_read_timeout(Some(Duration::from_secs(20)))?;
        let (shell, qmp) = (BufReader::new(shell), BufReader::new(qmp));
        let mut guest = Guest { qemu, shell, qmp, dir, device: device.to_owned(), bdf: "0000:01:00.0" };
        guest.hear_qmp("QMP");
        guest.qmp("qmp_capabilities", json!({}));
        let boot = guest.listen("<<ready>>");
        assert!(boot.is_ok(), "the guest does not come up: {boot:?}\n{}", guest.console());
        Ok(guest)
    }

    /// What the guest's kernel said.
    pub fn console(&self) -> String {
        let mut text = Vec::new();
        let file = std::fs::File::open(self.dir.join("console"));
        let _ = file.and_then(|mut file| file.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Lines up to one that begins with `mark`.
    fn listen(&mut self, mark: &str) -> io::Result<(String, String)> {
        let mut text = String::new();
        loop {
            let mut bytes = Vec::new();
            if self.shell.read_until(b'\n', &mut bytes)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            if line.starts_with(mark) {
                return Ok((text, line));
            }
            text.push_str(&line);
            text.push('\n');
        }
    }

    /// Runs a command in the guest; at most a minute.
    ///
    /// # Panics
    /// When the guest does not answer.
    pub fn run(&mut self, command: &str) -> Said {
        assert!(!command.contains('\n'), "one line");
        writeln!(self.shell.get_mut(), "{command}").expect("the guest hears");
        match self.listen("<<") {
            Ok((text, mark)) => Said {
                status: mark.trim_matches(['<', '>']).parse().unwrap_or(-1),
                text: text.trim_end().to_owned(),
            },
            Err(e) => panic!("the guest did not answer to `{command}`: {e}\n{}", self.console()),
        }
    }

    /// [`Guest::run`], which must succeed; what it said.
    ///
    /// # Panics
    /// When it fails.
    pub fn must(&mut self, command: &str) -> String {
        let said = self.run(command);
        assert_eq!(said.status, 0, "in the guest: {command}\n{}\n{}", said.text, self.autopsy());
        said.text
    }

    /// What the daemons and the kernel in the guest said last.
    pub fn autopsy(&mut self) -> String {
        let said = self.run("cd /run/axolotl/axolotl/log 2>/dev/null && tail -n 15 *; dmesg | tail -n 25");
        format!("{}\n{}", said.text, self.console().lines().rev().take(5).collect::<Vec<_>>().join("\n"))
    }

    /// Runs `command` until it succeeds; false when it never did within `patience`.
    pub fn until(&mut self, patience: Duration, command: &str) -> bool {
        let end = Instant::now() + patience;
        loop {
            if self.run(command).status == 0 {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn hear_qmp(&mut self, key: &str) -> Value {
        loop {
            let mut line = String::new();
            let n = self.qmp.read_line(&mut line).expect("QEMU answers");
            assert!(
                n > 0,
                "QEMU has ended: {}",
                std::fs::read_to_string(self.dir.join("qemu.log")).unwrap_or_default()
            );
            let value: Value = serde_json::from_str(&line).expect("JSON");
            if value.get(key).is_some() || value.get("error").is_some() {
                return value;
            }
        }
    }

    /// Pulls the NIC out, as a hand at the machine does: the guest is told first, and takes its time.
    ///
    /// # Panics
    /// When QEMU refuses.
    pub fn unplug(&mut self) {
        self.qmp("device_del", json!({ "id": "nic" }));
    }

    /// Waits until QEMU has let go of the NIC that was pulled out, which the guest has let go of.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn unplugged(&mut self) {
        while self.hear_qmp("event")["event"] != "DEVICE_DELETED" {}
    }

    /// Plugs another one like it in.
    ///
    /// # Panics
    /// When QEMU refuses.
    pub fn plug(&mut self) {
        let words = format!("driver={},{PLUGGED}", self.device);
        let pairs = words.split(',').filter_map(|word| word.split_once('='));
        // On the command line all of them are words; here a switch is one only where it knows "auto" too.
        let argument = |(key, value): (&str, &str)| {
            let switch = ["iommu_platform", "mq", "rss"].contains(&key);
            (key.to_owned(), if switch { Value::Bool(value == "on") } else { value.into() })
        };
        let arguments: serde_json::Map<String, Value> = pairs.map(argument).collect();
        self.qmp("device_add", Value::Object(arguments));
    }

    /// Asks QEMU for something.
    ///
    /// # Panics
    /// When it refuses.
    pub fn qmp(&mut self, command: &str, arguments: Value) -> Value {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.qmp.get_mut(), "{request}").expect("QEMU hears");
        let answer = self.hear_qmp("return");
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer["return"].clone()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Ended or not, it goes.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

//! The arguments of `supervisor up`, put together with the file they may name.

use crate::config::{ConfigError, Given, Place, Wanted, WantedNic, file};
use crate::starter::{self, StarterError};
use clap::Args;
use std::path::PathBuf;

/// Arguments of `up`. What belongs to an interface is repeated in the order of the interfaces and
/// takes precedence over the file.
#[derive(Debug, Args)]
pub struct Up {
    /// The group's name.
    #[arg(long, default_value_t = proto::run_dir::default_name())]
    name: String,
    /// An interface: tap:IF[@NETNS], xdp:IF[@NETNS], packet:IF[@NETNS], vfio:BDF or wire:PATH[,loss=…,delay=…,reorder=…,dup=…,corrupt=…,seed=…], and perhaps ,offload=off; of xdp and packet also ,ports=8080+20000-20999: those of the kernel's own address.
    #[arg(long, value_name = "SPEC")]
    nic: Vec<String>,
    /// The stack's addresses on the interface.
    #[arg(long, value_name = "CIDR[,CIDR]")]
    addr: Vec<String>,
    /// The kernel's addresses on the TAP.
    #[arg(long, value_name = "CIDR[,CIDR]")]
    tap_addr: Vec<String>,
    /// Default gateway.
    #[arg(long, value_name = "IP")]
    gateway: Vec<String>,
    /// The stack's hardware address on the interface.
    #[arg(long, value_name = "MAC")]
    mac: Vec<String>,
    /// Maximum transmission unit in bytes.
    #[arg(long, value_name = "BYTES")]
    mtu: Vec<u64>,
    /// Number of netd.
    #[arg(long, value_name = "N")]
    shards: Option<u64>,
    /// Connections per shard.
    #[arg(long, value_name = "N")]
    connections: Option<u64>,
    /// A configuration file.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// A deliberate fault, for tests.
    #[arg(long, value_name = "KEY=VALUE")]
    fault: Vec<String>,
    /// Return when the group is up.
    #[arg(long)]
    detach: bool,
    /// Where the daemons' programs are, if not beside this one.
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

fn given<T>(flag: &'static str, value: T) -> Given<T> {
    Given { value, at: Place::Flag(flag) }
}

impl Up {
    /// Starts the group.
    ///
    /// # Errors
    /// [`StarterError`].
    pub fn run(&self) -> Result<(), StarterError> {
        let wanted = self.wanted()?;
        let beside = || std::env::current_exe().ok()?.parent().map(PathBuf::from);
        let programs = self.bin_dir.clone().or_else(beside);
        let programs =
            programs.ok_or_else(|| StarterError::Missing("where the programs are is unknown".into()))?;
        starter::up(&wanted, &self.name, &programs, !self.detach)
    }

    fn wanted(&self) -> Result<Wanted, ConfigError> {
        let mut wanted = self.config.as_deref().map(file::read).transpose()?.unwrap_or_default();
        if !self.nic.is_empty() {
            wanted.nics = self.nic.iter().map(|spec| bare(spec)).collect();
        }
        let list = |flag, text: &str| text.split(',').map(|one| given(flag, one.to_owned())).collect();
        each(&mut wanted, "--addr", &self.addr, |nic, text| nic.addrs = list("--addr", text))?;
        each(&mut wanted, "--tap-addr", &self.tap_addr, |nic, text| {
            nic.tap_addrs = list("--tap-addr", text)
        })?;
        each(&mut wanted, "--gateway", &self.gateway, |nic, text| {
            nic.gateway = Some(given("--gateway", text.clone()));
        })?;
        each(&mut wanted, "--mac", &self.mac, |nic, text| nic.mac = Some(given("--mac", text.clone())))?;
        each(&mut wanted, "--mtu", &self.mtu, |nic, bytes| nic.mtu = Some(given("--mtu", *bytes)))?;
        wanted.shards = self.shards.map(|n| given("--shards", n)).or(wanted.shards);
        wanted.connections = self.connections.map(|n| given("--connections", n)).or(wanted.connections);
        wanted.faults.extend(self.fault.iter().map(|fault| given("--fault", fault.clone())));
        Ok(wanted)
    }
}

fn bare(spec: &str) -> WantedNic {
    WantedNic {
        spec: given("--nic", spec.to_owned()),
        addrs: Vec::new(),
        tap_addrs: Vec::new(),
        gateway: None,
        mac: None,
        mtu: None,
    }
}

/// Gives the n-th value to the n-th interface.
fn each<T>(
    wanted: &mut Wanted,
    flag: &'static str,
    values: &[T],
    mut set: impl FnMut(&mut WantedNic, &T),
) -> Result<(), ConfigError> {
    if values.len() > wanted.nics.len() {
        return Err(ConfigError {
            at: Place::Flag(flag),
            wrong: format!("given {} times for {} interfaces", values.len(), wanted.nics.len()),
            remedy: "give it once per --nic, with commas between several values".to_owned(),
        });
    }
    wanted.nics.iter_mut().zip(values).for_each(|(nic, value)| set(nic, value));
    Ok(())
}

//! What `deploy/` ships, and what a service manager hears of a group: sd_notify(3) at a socket of the test's
//! own. Manifest and unit are judged offline: every field is one that the test knows of the API, and what
//! they refer to is there.

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tests::process::group::{Group, Role, Spec, binaries};
use tests::process::{private_net, skip};

/// Longer than any machine takes for a step, however busy it is.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the manager of the test waits at most, in microseconds: far more than a loop is ever late.
const WATCHDOG_US: &str = "400000";

/// What is shipped.
const UNIT: &str = include_str!("../../deploy/axolotl@.service");
const RECIPE: &str = include_str!("../../deploy/Containerfile");
const MANIFEST: &str = include_str!("../../deploy/daemonset.json");
const CONFIGURATION: &str = include_str!("../../deploy/axolotl.toml");

/// Words of a group, until one of them is what is waited for.
fn hear(manager: &UnixDatagram, wanted: &str) -> usize {
    let deadline = Instant::now() + PATIENCE;
    let (mut room, mut others) = ([0; 512], 0);
    while Instant::now() < deadline {
        manager.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let len = manager.recv(&mut room).unwrap_or_else(|error| panic!("no '{wanted}': {error}"));
        let said = String::from_utf8_lossy(&room[..len]).into_owned();
        if said.lines().any(|line| line == wanted) {
            return others;
        }
        others += 1;
    }
    panic!("no '{wanted}' among {others} words");
}

#[test]
fn a_service_manager_hears_that_it_is_up_that_it_lives_and_that_it_ends() {
    private_net::test("a_service_manager_hears_that_it_is_up_that_it_lives_and_that_it_ends", || {
        let path = std::env::temp_dir().join(format!("axlmanager{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let manager = UnixDatagram::bind(&path).expect("a socket");
        let spec =
            Spec { nic: "tap:axl30".into(), addr: "10.90.0.2/24".into(), tap_addr: None, more: Vec::new() };
        let mut top = PathBuf::new();
        let group = Group::up_prepared(binaries(), &spec, |up| {
            up.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", WATCHDOG_US);
            // As a manager has it: the directory of all groups is not ours, that of this one is.
            let of = |name| up.get_envs().find(|(key, _)| *key == name).and_then(|(_, value)| value);
            top = of("AXOLOTL_DIR").expect("a run directory").into();
            std::fs::create_dir(top.join(top.file_name().expect("a name"))).expect("a directory");
            std::fs::set_permissions(&top, PermissionsExt::from_mode(0o555)).expect("our own");
        });
        std::fs::set_permissions(&top, PermissionsExt::from_mode(0o755)).expect("our own");
        let group = group.expect("a group");
        hear(&manager, "READY=1");
        for _ in 0..3 {
            hear(&manager, "WATCHDOG=1");
        }
        let active = group.find(Role::Supervisor).expect("an active supervisor");
        Group::signal(&active, rustix::process::Signal::KILL);
        hear(&manager, "STATUS=The standby took over");
        for _ in 0..3 {
            hear(&manager, "WATCHDOG=1");
        }
        let down =
            group.command("supervisor").args(["down", "--name", group.name()]).output().expect("it runs");
        assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
        hear(&manager, "STOPPING=1");
        std::fs::remove_file(&path).expect("it was there");
    });
}

#[test]
fn the_shipped_configuration_starts_a_group() {
    private_net::test("the_shipped_configuration_starts_a_group", || {
        let path = std::env::temp_dir().join(format!("axlshipped{}.toml", std::process::id()));
        std::fs::write(&path, CONFIGURATION).expect("room");
        let config = path.to_str().expect("a plain name").to_owned();
        let spec = Spec {
            nic: "tap:axl0".into(),
            addr: "10.7.0.2/24".into(),
            tap_addr: Some("10.7.0.1/24".into()),
            more: vec!["--config".into(), config],
        };
        let group = Group::up_prepared(binaries(), &spec, |up| {
            // The file alone says what it is made of.
            let words: Vec<_> = up.get_args().map(|word| word.to_owned()).collect();
            let name = words.iter().position(|word| word == "--name").expect("a name");
            let mut plain = Command::new(up.get_program());
            plain.args(["up", "--detach", "--name"]).arg(&words[name + 1]).args(["--config", &spec.more[1]]);
            plain.envs(up.get_envs().filter_map(|(key, value)| Some((key, value?))));
            *up = plain;
        });
        std::fs::remove_file(&path).expect("it was there");
        let group = group.expect("a group");
        assert!(group.whole());
        let output = group.command("netctl").args(["-j", "addr"]).output().expect("it runs");
        assert!(String::from_utf8_lossy(&output.stdout).contains("10.7.0.2"), "{output:?}");
    });
}

/// The part of Kubernetes' API that the manifest uses; another field is a mistake of ours.
#[expect(dead_code, reason = "that a field is known, and of which type, is all that is looked at of some")]
mod api {
    use super::{BTreeMap, Deserialize};

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct List {
        pub api_version: String,
        pub kind: String,
        pub items: Vec<serde_json::Value>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct Meta {
        pub name: Option<String>,
        #[serde(default)]
        pub labels: BTreeMap<String, String>,
        #[serde(default)]
        pub annotations: BTreeMap<String, String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct ConfigMap {
        pub api_version: String,
        pub kind: String,
        pub metadata: Meta,
        pub data: BTreeMap<String, String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct DaemonSet {
        pub api_version: String,
        pub kind: String,
        pub metadata: Meta,
        pub spec: Spec,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct Spec {
        pub selector: Selector,
        pub update_strategy: UpdateStrategy,
        pub template: Template,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct Selector {
        pub match_labels: BTreeMap<String, String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct UpdateStrategy {
        #[serde(rename = "type")]
        pub kind: String,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Template {
        pub metadata: Meta,
        pub spec: Pod,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct Pod {
        pub host_network: bool,
        pub automount_service_account_token: bool,
        pub termination_grace_period_seconds: u32,
        pub containers: Vec<Container>,
        pub volumes: Vec<Volume>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct Container {
        pub name: String,
        pub image: String,
        pub image_pull_policy: String,
        #[serde(default)]
        pub command: Vec<String>,
        #[serde(default)]
        pub args: Vec<String>,
        #[serde(default)]
        pub env: Vec<Variable>,
        #[serde(default)]
        pub ports: Vec<Port>,
        pub security_context: Security,
        pub startup_probe: Option<Probe>,
        pub liveness_probe: Option<Probe>,
        pub resources: Resources,
        pub volume_mounts: Vec<Mount>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct Variable {
        pub name: String,
        pub value_from: From,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct From {
        pub field_ref: Field,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct Field {
        pub field_path: String,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct Port {
        pub name: String,
        pub container_port: u16,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct Security {
        pub allow_privilege_escalation: bool,
        pub capabilities: Capabilities,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Capabilities {
        pub drop: Vec<String>,
        #[serde(default)]
        pub add: Vec<String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct Probe {
        pub exec: Exec,
        pub period_seconds: u32,
        pub timeout_seconds: Option<u32>,
        pub failure_threshold: u32,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Exec {
        pub command: Vec<String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Resources {
        pub requests: BTreeMap<String, String>,
        pub limits: BTreeMap<String, String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct Mount {
        pub name: String,
        pub mount_path: String,
        #[serde(default)]
        pub read_only: bool,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub struct Volume {
        pub name: String,
        pub host_path: Option<HostPath>,
        pub config_map: Option<Named>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct HostPath {
        pub path: String,
        #[serde(rename = "type")]
        pub kind: String,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Named {
        pub name: String,
    }
}

/// Programs of the group that the image has.
fn in_the_image() -> BTreeSet<String> {
    let words = RECIPE.split_whitespace().filter_map(|word| word.strip_prefix("/src/target/release/"));
    words.map(str::to_owned).collect()
}

#[test]
fn the_image_has_what_a_group_runs() {
    let image = in_the_image();
    for program in [
        "supervisor",
        "nicd",
        "netd",
        "sockd",
        "netctl",
        "netexec",
        "libnetclient.so",
        "libaxolotl_preload.so",
    ] {
        assert!(image.contains(program), "{program} is not copied");
        assert!(binaries().join(program).is_file(), "{program} is not built under that name");
    }
    assert!(RECIPE.contains("\nCOPY deploy/axolotl.toml /etc/axolotl/axolotl.toml\n"));
    assert!(RECIPE.contains("\"/etc/axolotl/axolotl.toml\"]"), "what is copied is what is read");
}

#[test]
fn the_manifest_is_one_of_kubernetes_and_whole() {
    let list: api::List = serde_json::from_str(MANIFEST).expect("fields that the API has");
    assert_eq!((list.api_version.as_str(), list.kind.as_str(), list.items.len()), ("v1", "List", 2));
    let [config, set] = <[serde_json::Value; 2]>::try_from(list.items).expect("two");
    let config: api::ConfigMap = serde_json::from_value(config).expect("fields that the API has");
    let set: api::DaemonSet = serde_json::from_value(set).expect("fields that the API has");
    assert_eq!((config.api_version.as_str(), config.kind.as_str()), ("v1", "ConfigMap"));
    assert_eq!((set.api_version.as_str(), set.kind.as_str()), ("apps/v1", "DaemonSet"));
    assert!(matches!(set.spec.update_strategy.kind.as_str(), "OnDelete" | "RollingUpdate"));
    // What the API server would refuse: a selector that does not select the template.
    let labels = &set.spec.template.metadata.labels;
    let selects = |(key, value): (&String, &String)| labels.get(key) == Some(value);
    assert!(set.spec.selector.match_labels.iter().all(selects) && !labels.is_empty());
    let pod = &set.spec.template.spec;
    let volumes: BTreeSet<&str> = pod.volumes.iter().map(|volume| volume.name.as_str()).collect();
    assert_eq!(volumes.len(), pod.volumes.len(), "names of volumes");
    for volume in &pod.volumes {
        match (&volume.host_path, &volume.config_map) {
            (Some(host), None) => assert!(
                host.path.starts_with('/')
                    && ["DirectoryOrCreate", "CharDevice"].contains(&host.kind.as_str())
            ),
            (None, Some(of)) => assert_eq!(Some(&of.name), config.metadata.name.as_ref()),
            _ => panic!("{}: one source", volume.name),
        }
    }
    let image = in_the_image();
    for container in &pod.containers {
        let name = &container.name;
        for mount in &container.volume_mounts {
            assert!(volumes.contains(mount.name.as_str()), "{name}: no volume {}", mount.name);
            assert!(mount.mount_path.starts_with('/'));
        }
        let probes = container.startup_probe.iter().chain(&container.liveness_probe);
        let programs = probes.map(|probe| &probe.exec.command[0]).chain(container.command.first());
        programs.for_each(|program| assert!(image.contains(program), "{name}: the image has no {program}"));
        assert!(!container.security_context.allow_privilege_escalation);
        assert_eq!(container.security_context.capabilities.drop, ["ALL"]);
        let known: BTreeSet<&str> = container.env.iter().map(|variable| variable.name.as_str()).collect();
        for word in container.command.iter().chain(&container.args) {
            if let Some((_, rest)) = word.split_once("$(") {
                let variable = rest.split(')').next().unwrap_or_default();
                assert!(known.contains(variable), "{name}: nothing says what {variable} is");
            }
        }
    }
    // The program's own word on the configuration that it is given.
    let scratch = std::env::temp_dir().join(format!("axlmanifest{}.toml", std::process::id()));
    std::fs::write(&scratch, &config.data["axolotl.toml"]).expect("room");
    let wanted = supervisor::config::file::read(&scratch).expect("a configuration");
    supervisor::config::check(&wanted, "axolotl", "/run/axolotl").expect("a sound one");
    std::fs::remove_file(&scratch).expect("it was there");
}

#[test]
fn the_unit_is_one_of_systemd() {
    const TEST: &str = "the_unit_is_one_of_systemd";
    let version = Command::new("systemd-analyze").arg("--version").stdout(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        return skip(TEST, "systemd-analyze is not here", false);
    }
    let dir = std::env::temp_dir().join(format!("axlunit{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let unit = dir.join("axolotl@.service");
    // The programs are where they were built, not where the unit will find them.
    let bin = binaries();
    let text = UNIT.replace("/usr/lib/axolotl", bin.to_str().expect("a plain name"));
    std::fs::write(&unit, text).expect("room");
    let output = Command::new("systemd-analyze").arg("verify").arg(&unit).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // What it says of other units of the machine is not ours.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("axolotl")).collect();
    assert!(ours.is_empty(), "{said}");
    std::fs::remove_dir_all(&dir).expect("it was there");
}

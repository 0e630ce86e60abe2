//! Every command with its flags, as data: what completions and man pages are made of.
//!
//! The flags come from the tables that the commands themselves read.

use crate::{
    bench, demo, doctor,
    flags::{
        gateway, server,
        table::{Flag, Slot},
        up,
    },
    observe,
    policy::explain,
};

/// A command.
pub struct Command {
    pub name: &'static str,
    pub summary: &'static str,
    /// Words that may follow it.
    pub words: &'static [&'static str],
    pub flags: Vec<Described>,
}

/// A flag.
pub struct Described {
    pub name: &'static str,
    pub help: &'static str,
    /// Whether it may stand without a value.
    pub is_switch: bool,
    /// What its value may be, if that is a few words.
    pub choices: &'static [&'static str],
    /// Whether its value names a file or a folder.
    pub is_path: bool,
    /// Its value if it is not given; empty for none.
    pub default: String,
}

fn described<S: Default>(flags: &[Flag<S>]) -> Vec<Described> {
    let mut defaults = S::default();
    let known = flags.iter().filter(|flag| flag.unused().is_none());
    known
        .map(|flag| Described {
            name: flag.name,
            help: flag.help,
            default: flag.slot.show(&mut defaults),
            is_switch: flag.slot.is_switch(),
            choices: if let Slot::Choice(_, words) = flag.slot { words } else { &[] },
            is_path: is_path(flag.name),
        })
        .collect()
}

fn is_path(name: &str) -> bool {
    let ends = ["-file", "-dir", "cacert", "cert", "key"];
    let own = ["policy", "log", "backups", "dir", "from-kubeadm"];
    ends.iter().any(|end| name.ends_with(end)) || own.contains(&name)
}

fn plain(names: &'static [&'static str]) -> Vec<Described> {
    let flag = |name: &'static &'static str| Described {
        name: name.trim_start_matches('-'),
        help: "",
        default: String::new(),
        is_switch: *name == "--once",
        choices: &[],
        is_path: is_path(name.trim_start_matches('-')),
    };
    names.iter().map(flag).collect()
}

/// The flags of all its commands, each once.
fn utl_flags() -> Vec<Described> {
    use crate::utl::{dump_db, dump_logs, heal, offline, snapshot, space};
    let mut flags = described(&snapshot::flags());
    let more = [
        described(&snapshot::verify_flags()),
        described(&dump_logs::flags()),
        described(&dump_db::flags()),
        described(&space::flags()),
        described(&heal::flags()),
        described(&offline::flags()),
    ];
    for flag in more.into_iter().flatten() {
        if flags.iter().all(|known| known.name != flag.name) {
            flags.push(flag);
        }
    }
    flags
}

/// Every command, in the order of the overview.
pub fn all() -> Vec<Command> {
    let command = |name, summary, words, flags| Command { name, summary, words, flags };
    vec![
        command("up", "a server and the gateway in one process", &[], described(&up::flags())),
        command("server", "the server alone, with etcd's flags", &[], described(&server::flags())),
        command("gateway", "the gateway alone, in front of any etcd 3.4 to 3.7", &[], described(&gateway::flags())),
        command("top", "who does how much through a gateway of this machine", &[], plain(&observe::FLAGS)),
        command("quota", "the quotas that a gateway keeps", &[], plain(&observe::FLAGS)),
        command("tap", "every request of a gateway, as it ends", &[], plain(&observe::FLAGS)),
        command(
            "policy",
            "what a policy file says",
            &["check", "explain", "diff", "apply", "status", "default", "schema"],
            described(&explain::flags()),
        ),
        command(
            "utl",
            "etcd's files without a member: snapshots, hashes, checks, dumps, space",
            &["snapshot", "hashkv", "check", "heal", "space", "dump-logs", "dump-db", "defrag", "migrate"],
            utl_flags(),
        ),
        command(
            "bench",
            "load on any etcd, and how long it really took",
            &[
                "put",
                "range",
                "range-stream",
                "txn-put",
                "txn-mixed",
                "watch",
                "watch-latency",
                "lease-keepalive",
                "stm",
                "k8s",
                "storm",
                "abuse",
                "replay",
            ],
            described(&bench::flags::flags()),
        ),
        command("doctor", "what is wrong with an etcd, and what to run next", &[], described(&doctor::flags())),
        command("demo", "a storm of lists at a cluster, without and with a policy", &[], described(&demo::flags())),
        command("dashboards", "Grafana boards and Prometheus rules", &["export"], plain(&["--dir", "--datasource"])),
        command("completion", "completions for a shell", &["bash", "zsh", "fish", "powershell"], Vec::new()),
        command("man", "man pages", &[], plain(&["--dir"])),
        command("openapi", "the description of the JSON API", &[], Vec::new()),
        command("version", "which etcd we are compatible with, and our own version", &[], Vec::new()),
        command("help", "more on a command or a topic", &crate::help::TOPICS, Vec::new()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_command_line_is_described_and_none_else() {
        let names: Vec<&str> = all().iter().map(|command| command.name).collect();
        assert_eq!(names, crate::cli::COMMANDS);
    }
}

//! The help pages.

use std::{fmt::Write as _, sync::LazyLock};

use crate::{
    bench::flags as bench_flags,
    cli::COMMANDS,
    demo as demo_command, doctor as doctor_command,
    flags::{gates, gateway as gateway_flags, server as server_flags, table::Flag, up as up_flags},
    policy as policy_command, utl as utl_command,
};

/// What `forebay help` can be asked about.
pub static TOPICS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let commands = COMMANDS.into_iter().filter(|command| *command != "help");
    commands.chain(["environment", "config-file", "exit-status"]).collect()
});

/// The page of a topic.
pub fn topic(name: &str) -> Option<String> {
    match name {
        "up" => Some(up()),
        "server" => Some(server()),
        "gateway" => Some(gateway()),
        "top" | "quota" | "tap" => Some(OBSERVE.to_owned()),
        "policy" => Some(policy()),
        "utl" => Some(utl()),
        "bench" => Some(bench()),
        "doctor" => Some(doctor()),
        "demo" => Some(demo()),
        "completion" => Some(COMPLETION.to_owned()),
        "man" => Some(MAN.to_owned()),
        "openapi" => Some(OPENAPI.to_owned()),
        "dashboards" => Some(DASHBOARDS.to_owned()),
        "version" => Some(VERSION.to_owned()),
        "environment" => Some(ENVIRONMENT.to_owned()),
        "config-file" => Some(CONFIG_FILE.to_owned()),
        "exit-status" => Some(EXIT_STATUS.to_owned()),
        _ => None,
    }
}

/// What there is.
pub fn overview() -> String {
    format!(
        "Forebay is the front tier of etcd, with an etcd-compatible server built in.

Usage:
  forebay [up] [flags]         a server and the gateway in one process, clients at 127.0.0.1:2379
  forebay server [flags]       the server alone, with etcd's flags, variables and configuration file
  forebay gateway [flags]      the gateway alone, in front of any etcd 3.4 to 3.7
  forebay top                  who does how much through a gateway of this machine, live
  forebay quota                the quotas that a gateway keeps, and how much of them is used
  forebay tap                  every request of a gateway, as it ends
  forebay policy VERB ...      what a policy says and does: check, explain, diff, status
  forebay utl COMMAND ...      etcd's files without a member: snapshots, hashes, checks, dumps, space
  forebay bench LOAD           load on any etcd, and how long it really took
  forebay doctor               what is wrong with an etcd, and what to run next
  forebay demo                 a storm of lists at a cluster, without and with a policy, in half a minute
  forebay dashboards export    Grafana boards, Prometheus rules and their runbooks
  forebay completion SHELL     completions for bash, zsh, fish or powershell
  forebay man                  man pages
  forebay openapi              the description of the JSON API, as served at /openapi.json
  forebay version              which etcd we are compatible with, and our own version
  forebay help [topic]         more on {topics}

Called by the name of etcd, as through a symbolic link, it is `forebay server`; by those of etcdutl,
etcd-dump-db and etcd-dump-logs, what these are.

Try it:
  forebay
  etcdctl put greeting hello
  forebay gateway --endpoints=127.0.0.1:2379 --listen-client-urls=http://127.0.0.1:23790
",
        topics = TOPICS.join(", ")
    )
}

pub fn up() -> String {
    let usage = "Usage: forebay [up] [flags]

A server and the gateway in one process. Clients connect at http://127.0.0.1:2379, data is kept in
./default.etcd. A flag wins over its FOREBAY_ or ETCD_ variable, and that over the configuration file.
";
    page(usage, &up_flags::flags(), server_flags::Settings::default())
}

pub fn server() -> String {
    let usage = "Usage: forebay server [flags]

The server alone, with every flag of etcd 3.7. Each may be given as an ETCD_ variable instead, not as
well. With --config-file (or ETCD_CONFIG_FILE), flags and variables other than that are ignored.
";
    page(usage, &server_flags::flags(), server_flags::Settings::default())
}

pub fn gateway() -> String {
    let usage = "Usage: forebay gateway --endpoints=HOST:PORT,... [flags]

The gateway alone, in front of an etcd. A flag wins over its FOREBAY_ variable, and that over the
configuration file; ETCDCTL_ENDPOINTS and etcdctl's timeouts are understood too.
";
    page(usage, &gateway_flags::flags(), gateway_flags::Settings::default())
}

const OBSERVE: &str = "Usage: forebay top   [--by client,prefix,rpc] [--sort load|req|obj|size|p99] [--once]
       forebay quota
       forebay tap   [--client NAME] [--prefix KEY] [--rpc NAME] [--slower DURATION]

  --endpoint 127.0.0.1:2379   a gateway of this machine: its client or metrics port, without TLS
  -o table|json|csv

top shows the requests of the last 10 seconds by client, prefix and method, with the factors of their
load: requests per second, objects per request, bytes per object. On a terminal it is drawn again every
2 seconds. quota shows budgets that were counted since the gateway began. tap prints a line for each
request when it ends; one that reads too slowly is told how many it missed.
";

pub fn policy() -> String {
    let usage = "Usage: forebay policy check FILE
       forebay policy explain FILE [flags]
       forebay policy diff OLD NEW
       forebay policy apply --dry-run FILE [--endpoint=HOST:PORT] [-o table|json|csv]
       forebay policy status [--endpoint=HOST:PORT] [-o table|json|csv]
       forebay policy default
       forebay policy schema

Reads policy files. `apply --dry-run` asks a gateway which of those who are there now would notice a file,
and `status` what its policy does; the others need no gateway. `check` finds everything wrong with a file. `explain` says what
would happen to a request, by which rule, and why. `diff` says what two files say differently. `default`
prints the policy that holds without a file, to begin an own one with, and `schema` the JSON schema.

Exit status: 0; 1 if a file is wrong, or `diff` found a difference; 2 if the command line cannot be read.
";
    page(usage, &policy_command::explain::flags(), policy_command::explain::Settings::default())
}

pub fn utl() -> String {
    use utl_command::{dump_db, dump_logs, heal, offline, snapshot, space};
    let usage = "Usage: forebay utl snapshot save FILE --endpoints HOST:PORT
       forebay utl snapshot status|verify FILE
       forebay utl snapshot restore FILE --data-dir DIR [flags]
       forebay utl hashkv FILE [--rev N]
       forebay utl check PATH
       forebay utl heal --data-dir DIR --endpoints HOST:PORT,...
       forebay utl space PATH|--endpoints HOST:PORT [flags]
       forebay utl dump-logs DIR [flags]
       forebay utl dump-db list-bucket|iterate-bucket|scan-keys|hash PATH ...
       forebay utl defrag --data-dir DIR
       forebay utl migrate --data-dir DIR --target-version X.Y

What is done to etcd's files, or to ours, which are the same, while no member uses them. PATH is a data
directory or a db file, FILE also a saved snapshot. Nothing but save, restore, heal, defrag and migrate
writes anything. dump-logs reads the log of a running member too; space asks one for a snapshot.

space prints objects, average size, uncompacted revisions and their product, which is the space they take;
its share of the db; and CHURN, the share of the writes since the last compaction. `verify` restores a
snapshot, checks every file and compares the history. `check` names what is wrong, where, and what repairs it.

heal is for a damaged member of a cluster that works without it: the cluster removes it and adds another in its
place, whose id has promised nothing; its files are set aside, and when it is started, as before, the leader
sends it everything. Alone, there is nobody to heal from: restore a snapshot.

  -w, --write-out simple|table|json|fields

Exit status: 0; 1 if it cannot be done: the last lines say why, and what repairs it; 2 if the command line
cannot be read.
";
    [
        page(usage, &snapshot::flags(), snapshot::Settings::default()),
        page("", &snapshot::verify_flags(), snapshot::VerifySettings::default()),
        page("", &dump_logs::flags(), dump_logs::Settings::default()),
        page("", &dump_db::flags(), dump_db::Settings::default()),
        page("", &heal::flags(), heal::Settings::default()),
        page("", &space::flags(), space::Settings::default()),
        page("", &offline::flags(), offline::Settings::default()),
    ]
    .concat()
}

pub fn bench() -> String {
    let usage = "Usage: forebay bench LOAD [flags]

LOAD is put, range [KEY [END]], range-stream, txn-put, txn-mixed, watch, watch-latency, lease-keepalive, stm,
k8s (what API servers do), storm (lists of everything, and a bystander), abuse [KIND …] (list-all, watch-flood,
huge-txn, big-values, lease-churn, key-spray, slow-readers, connection-flood, open-streams, rapid-reset,
frame-flood, and a bystander) or replay FILE (what `forebay tap -o json > FILE` recorded).

Requests are sent when they are due, whatever the answers do, and latency counts from then: a server that
stalls is seen to. Works against any etcd; etcd's benchmark tool has many of these flags.

  forebay bench put --rate 2000/s --duration 30s --report out.html
  forebay bench range --compare 127.0.0.1:2379,127.0.0.1:23790 --assert 'p99<20ms'
  forebay bench abuse --all --assert 'bystander.p99<50ms'

Exit status: 0; 1 if it could not run, or a condition does not hold; 2 if the command line cannot be read.
";
    page(usage, &bench_flags::flags(), bench_flags::Settings::default())
}

pub fn doctor() -> String {
    let usage = "Usage: forebay doctor [flags]

Examines members of any etcd from 3.4 on, gateways, a stopped member's data directory, a log, a policy file
and backups, in the order in which one debugs: is it running, do members agree, what does the log say, is
there space, where does time go, what lies in it, who asks for how much. Each line is a check with its
evidence, and below it the command to run next. Nothing is changed. A gateway with --admin-token-file is asked
with the token in FOREBAY_ADMIN_TOKEN.

Exit status: 0 if all passed; 1 with warnings; 2 with failures, or if nothing could be examined.
";
    page(usage, &doctor_command::flags(), doctor_command::Settings::default())
}

pub fn demo() -> String {
    let usage = "Usage: forebay demo [flags]

Three members and a gateway on this machine, in a temporary folder. A controller lists all its objects from
several places at once, while an API server writes at a steady pace and keeps a lease alive: first at a member,
then through a gateway whose policy knows the storm. A table tells what the API server felt of it.
";
    page(usage, &demo_command::flags(), demo_command::Settings::default())
}

const DASHBOARDS: &str = "Usage: forebay dashboards export [--dir dashboards] [--datasource UID]

Writes what a monitoring system needs into a folder: Grafana boards (Overview, Clients & Load, Watches &
Mirror, Quotas & Policy, Storage & Raft), recording and alerting rules for Prometheus with their unit
tests, and a runbook for each alert. --datasource is the uid of the Prometheus that boards show at first;
they let you choose another one. Scrape the members as job etcd, so that etcd's own boards and alerts
find them too.
";

const COMPLETION: &str = "Usage: forebay completion bash|zsh|fish|powershell

Prints what the shell needs to complete commands, flags and their values. Its first lines say where to put it.
";

const MAN: &str = "Usage: forebay man [--dir DIR]

Writes man pages into a folder, one for each command. Without --dir the first one is printed.
";

const OPENAPI: &str = "Usage: forebay openapi

Prints the description of the JSON API, OpenAPI 3.1. Every client port serves it at /openapi.json.
";

const VERSION: &str = "Usage: forebay version

Prints the lines of `etcd --version`, the first with the release of etcd that we are compatible with,
and one more with our own version.
";

const ENVIRONMENT: &str = "Environment variables

`forebay server` reads ETCD_ and the flag's name in capitals, with _ for -: ETCD_DATA_DIR is
--data-dir. A variable that is set while its flag is given is an error, as in etcd; one that belongs
to no flag is named in the log.

`forebay up` and `forebay gateway` read FOREBAY_ and the name in the same way. `forebay up` takes
ETCD_ too; `forebay gateway` takes ETCDCTL_ENDPOINTS, ETCDCTL_DIAL_TIMEOUT, ETCDCTL_KEEPALIVE_TIME
and ETCDCTL_KEEPALIVE_TIMEOUT. Here a flag wins over its variable.

NO_COLOR keeps console logs plain; they are anyway when they do not go to a terminal.
";

const CONFIG_FILE: &str = "Configuration file

YAML or JSON with the flags' names as keys:

  name: m1
  data-dir: /var/lib/etcd
  listen-client-urls: http://10.0.0.1:2379
  advertise-client-urls: http://10.0.0.1:2379
  client-transport-security:
    cert-file: /etc/etcd/server.crt
    key-file: /etc/etcd/server.key

`forebay server` reads it as etcd does: it replaces flags and variables altogether, durations are
nanoseconds (5000000000 for 5s), and unknown keys are ignored, with a word in the log.

`forebay up` and `forebay gateway` let flags and variables win over it, take durations such as 5s too,
and refuse unknown keys. Their --print-config shows every value and where it came from.
";

const EXIT_STATUS: &str = "Exit status

  0    help or version was printed, or the server left its cluster
  1    the configuration is wrong, or the role cannot run: the last lines say why
  2    the command line cannot be read
  SIGINT and SIGTERM stop it in order, after which it ends by that signal (130 and 143 in a shell).
";

/// Usage and flags under their headings, in the table's order.
fn page<S>(usage: &str, flags: &[Flag<S>], mut defaults: S) -> String {
    let mut page = usage.to_owned();
    let mut group = "";
    for flag in flags.iter().filter(|flag| flag.unused().is_none() && !flag.help.is_empty()) {
        if flag.group != group {
            group = flag.group;
            let _ = write!(page, "\n{group}:\n");
        }
        let _ = write!(page, "  --{} '{}'\n    {}\n", flag.name, flag.slot.show(&mut defaults), flag.help);
        if flag.name == "feature-gates" {
            for gate in gates::describe() {
                let _ = writeln!(page, "      {gate}");
            }
        }
    }
    let mut unused: Vec<(&str, Vec<&str>)> = Vec::new();
    for flag in flags {
        if let Some(because) = flag.unused() {
            match unused.iter_mut().find(|(known, _)| *known == because) {
                Some((_, names)) => names.push(flag.name),
                None => unused.push((because, vec![flag.name])),
            }
        }
    }
    if !unused.is_empty() {
        let _ = write!(page, "\n{}:\n", server_flags::UNUSED);
    }
    for (because, names) in unused {
        let _ = writeln!(page, "  {because}:");
        for name in names {
            let _ = writeln!(page, "    --{name}");
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_has_a_page_without_escape_codes() {
        for name in TOPICS.iter() {
            let page = topic(name).unwrap_or_else(|| panic!("no page on {name}"));
            assert!(page.ends_with('\n') && !page.contains('\x1b'), "{name}");
        }
        assert_eq!(topic("nonsense"), None);
        assert!(overview().contains("forebay gateway"));
    }

    #[test]
    fn every_flag_stands_on_its_page_once() {
        let page = server();
        for flag in server_flags::flags() {
            let lines = page.lines().filter(|line| line.trim().split(' ').next() == Some(&format!("--{}", flag.name)));
            assert_eq!(lines.count(), 1, "--{}", flag.name);
        }
    }
}

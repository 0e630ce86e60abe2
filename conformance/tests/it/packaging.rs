//! What is installed beside the binary, before those who read it: systemd, man, the shells.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use forebay_conformance::{peers, target::Kind};
use forebay_loadtest::process::{etcd_flags, free_address};

/// Whether this can be run; it prints nothing.
fn works(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether the test cannot run, which is said.
fn is_missing(test: &str, program: &str, args: &[&str], install: &str) -> bool {
    if let Some(missing) = Kind::Server.missing() {
        peers::skip(test, missing);
        return true;
    }
    let missing = !program.is_empty() && !works(program, args);
    if missing {
        peers::skip_extra(test, install);
    }
    missing
}

/// What a program printed; it must end well.
fn printed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn forebay() -> Command {
    Command::new(peers::forebay().unwrap())
}

/// Ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Either fails only for a child that is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn systemd_hears_when_a_role_serves_that_it_lives_and_when_it_ends() {
    if is_missing("packaging::systemd_hears_when_a_role_serves_that_it_lives_and_when_it_ends", "", &[], "") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (client, peer, front) = (free_address().unwrap(), free_address().unwrap(), free_address().unwrap());
    let start = |role: &str, args: &[String]| {
        let at = scratch.path().join(role);
        let socket = UnixDatagram::bind(&at).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut command = forebay();
        command.arg(role).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // It wants to hear within 300 ms.
        command.env("NOTIFY_SOCKET", &at).env("WATCHDOG_USEC", "300000");
        (Running(command.spawn().unwrap()), socket)
    };
    let hear = |socket: &UnixDatagram| {
        let mut buffer = [0; 4096];
        let count = socket.recv(&mut buffer).expect("it says something within a minute");
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    };
    let server = start("server", &etcd_flags(&scratch.path().join("data"), "http", client, peer));
    let ready = hear(&server.1);
    assert!(ready.starts_with("READY=1\n") && ready.contains(&format!("MAINPID={}", server.0.0.id())), "{ready}");
    // Then it is as it says.
    std::net::TcpStream::connect(client).unwrap();
    let args = [format!("--endpoints={client}"), format!("--listen-client-urls=http://{front}")];
    let gateway = start("gateway", &args);
    assert!(hear(&gateway.1).starts_with("READY=1\n"));
    std::net::TcpStream::connect(front).unwrap();
    for (mut role, socket) in [gateway, server] {
        assert!((0..2).all(|_| hear(&socket) == "WATCHDOG=1"));
        assert!(works("kill", &["-TERM", &role.0.id().to_string()]));
        while !hear(&socket).starts_with("STOPPING=1\n") {}
        role.0.wait().unwrap();
    }
}

#[test]
fn the_units_have_no_remark_of_systemd_and_leave_little_open() {
    let test = "packaging::the_units_have_no_remark_of_systemd_and_leave_little_open";
    if is_missing(test, "systemd-analyze", &["--version"], "no systemd-analyze; apt-get install systemd") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
    let binary = peers::forebay().unwrap().canonicalize().unwrap();
    for name in ["forebay-server.service", "forebay-gateway.service"] {
        let text = fs::read_to_string(units.join(name)).unwrap();
        assert!(text.contains("ExecStart=/usr/bin/forebay "), "{name}");
        let unit = scratch.path().join(name);
        fs::write(&unit, text.replace("/usr/bin/forebay", &binary.display().to_string())).unwrap();
        let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().unwrap();
        let said = String::from_utf8_lossy(&verified.stderr);
        // Of other units on this machine it may say something too.
        assert!(verified.status.success() && !said.contains(name), "{said}");
        // In tenths of its measure of exposure, of which 10.0 is the most.
        let exposed = ["security", "--offline=true", "--threshold=20"];
        let exposed = Command::new("systemd-analyze").args(exposed).arg(&unit).output().unwrap();
        assert!(exposed.status.success(), "{}", String::from_utf8_lossy(&exposed.stdout));
    }
}

#[test]
fn the_man_pages_have_no_remark_of_mandoc() {
    let test = "packaging::the_man_pages_have_no_remark_of_mandoc";
    // It has no flag that does nothing: without a page it waits for one, and is given an empty one.
    if is_missing(test, "sh", &["-c", "mandoc -Tascii </dev/null"], "no mandoc; apt-get install mandoc") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let pages = printed(forebay().args(["man", "--dir"]).arg(scratch.path()));
    let output = Command::new("mandoc").args(["-Tlint", "-Wwarning"]).args(pages.lines()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    // A page without a date is the same whenever it is made.
    let remarks: Vec<&str> = said.lines().filter(|line| !line.contains("missing date")).collect();
    assert!(remarks.is_empty() && pages.lines().count() > 15, "{remarks:#?}");
}

#[test]
fn fish_completes_commands_flags_choices_and_files() {
    let test = "packaging::fish_completes_commands_flags_choices_and_files";
    if is_missing(test, "fish", &["--version"], "no fish; apt-get install fish") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("fish/completions");
    fs::create_dir_all(&folder).unwrap();
    // It completes what it can find.
    std::os::unix::fs::symlink(peers::forebay().unwrap().canonicalize().unwrap(), scratch.path().join("forebay"))
        .unwrap();
    let path = format!("{}:{}", scratch.path().display(), std::env::var("PATH").unwrap());
    fs::write(folder.join("forebay.fish"), printed(forebay().args(["completion", "fish"]))).unwrap();
    let complete = |line: &str| {
        let mut fish = Command::new("fish");
        fish.env("XDG_CONFIG_HOME", scratch.path()).env("PATH", &path);
        let page = printed(fish.args(["-c", &format!("complete -C '{line}'")]));
        page.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(complete("forebay gat"), ["gateway"]);
    assert_eq!(complete("forebay doctor --output "), ["json", "table"]);
    assert_eq!(complete("forebay doctor --output=j"), ["--output=json"]);
    assert_eq!(complete("forebay bench watch-"), ["watch-latency"]);
    assert_eq!(complete("forebay --listen-m"), ["--listen-metrics-urls"]);
    assert!(complete("forebay gateway --mirror").contains(&"--mirror-max-bytes".to_owned()));
    let folder = format!("forebay server --data-dir {}/fi", scratch.path().display());
    assert_eq!(complete(&folder), [format!("{}/fish/", scratch.path().display())]);
}

#[test]
fn zsh_completes_commands_flags_and_choices() {
    let test = "packaging::zsh_completes_commands_flags_and_choices";
    if is_missing(test, "zsh", &["-fc", "zmodload zsh/zpty"], "no zsh; apt-get install zsh") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("_forebay"), printed(forebay().args(["completion", "zsh"]))).unwrap();
    // A shell at a terminal of its own, in which forebay prints what it is called with.
    let script = r#"
        zmodload zsh/zpty
        zpty shell TERM=dumb zsh -fi
        zpty -w shell "PS1=; fpath=($1 \$fpath); autoload -U compinit; compinit -u -D; forebay() { print -r -- \"<\$*>\" }"
        for typed in ${@:2}; do
          zpty -n -w shell "forebay $typed"$'\t\n'
          zpty -r shell said $'*<*>\r\n'
          print -r -- "${${said##*<}%%>*}"
        done
        zpty -d shell"#;
    let typed = ["gat", "doctor --output j", "doctor --output=j", "policy ex", "--listen-m", "bench storm --ass"];
    let mut zsh = Command::new("timeout");
    let page = printed(zsh.args(["60", "zsh", "-fc", script, "zsh"]).arg(scratch.path()).args(typed));
    let wanted = ["gateway", "doctor --output json", "doctor --output=json", "policy explain", "--listen-metrics-urls"];
    let wanted = [&wanted[..], &["bench storm --assert"]].concat();
    assert_eq!(page.lines().map(str::trim_end).collect::<Vec<_>>(), wanted);
}

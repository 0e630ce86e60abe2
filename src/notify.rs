//! Tells systemd how we are, as sd_notify(3) does: a datagram to the socket that it names in the environment. Without
//! one nothing happens.

use std::{
    env, io,
    os::{linux::net::SocketAddrExt as _, unix::ffi::OsStrExt as _, unix::net::SocketAddr, unix::net::UnixDatagram},
    path::Path,
    process,
    time::Duration,
};

/// We serve.
pub fn ready(status: &str) {
    say(&format!("READY=1\nSTATUS={status}\nMAINPID={}", process::id()));
}

/// We end, in order.
pub fn stopping() {
    say("STOPPING=1\nSTATUS=stopping");
}

/// Says that we are alive for as long as the runtime runs tasks: three times as often as systemd wants to hear it.
pub fn watch() {
    let Some(pause) = watchdog(env::var("WATCHDOG_USEC").ok(), env::var("WATCHDOG_PID").ok()) else { return };
    tokio::spawn(async move {
        loop {
            say("WATCHDOG=1");
            tokio::time::sleep(pause).await;
        }
    });
}

/// How often the watchdog wants to hear from this process, if at all.
fn watchdog(micros: Option<String>, pid: Option<String>) -> Option<Duration> {
    let meant = pid.is_none_or(|pid| pid.parse() == Ok(process::id()));
    let micros: u64 = micros?.parse().ok().filter(|micros| *micros > 0 && meant)?;
    Some(Duration::from_micros(micros) / 3)
}

fn say(state: &str) {
    if let Some(path) = env::var_os("NOTIFY_SOCKET")
        && let Err(error) = send(path.as_bytes(), state)
    {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// A name that begins with `@` is no path, but a name in the kernel.
fn send(name: &[u8], state: &str) -> io::Result<()> {
    let address = match name.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(name)))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_reaches_a_socket_by_path_and_by_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).expect("bound");
        let name = format!("forebay-test-{}", process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let by_name = UnixDatagram::bind_addr(&address).expect("bound");
        send(path.as_os_str().as_bytes(), "READY=1").expect("sent");
        send(format!("@{name}").as_bytes(), "STOPPING=1").expect("sent");
        for (socket, wanted) in [(by_path, "READY=1"), (by_name, "STOPPING=1")] {
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).expect("received");
            assert_eq!(&buffer[..length], wanted.as_bytes());
        }
    }

    #[test]
    fn the_watchdog_is_told_in_time_and_only_by_whom_it_asks() {
        let own = process::id().to_string();
        let asked = |micros: &str, pid: Option<&str>| watchdog(Some(micros.to_owned()), pid.map(str::to_owned));
        assert_eq!(asked("30000000", Some(&own)), Some(Duration::from_secs(10)));
        assert_eq!(asked("30000000", None), Some(Duration::from_secs(10)));
        assert_eq!((asked("30000000", Some("1")), asked("0", None), asked("soon", None)), (None, None, None));
        assert_eq!(watchdog(None, None), None);
    }
}

//! Members in network namespaces of their own, joined by a bridge on which this process is too.
//!
//! Between any two of them the way may be cut, in both directions or in one. It needs root and `ip` (iproute2).

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, ensure};

/// Some namespaces. They go with the value; whatever runs in them has to end before.
#[derive(Debug)]
pub struct Network {
    /// What all names begin with.
    name: String,
    /// The third byte of all addresses.
    subnet: u8,
    places: u8,
}

/// What cannot be done here, if it cannot.
pub fn missing() -> Option<String> {
    match ip(&["netns", "list"]).and_then(|()| Network::new(1)) {
        Ok(_) => None,
        Err(error) => Some(format!("network namespaces cannot be made (root and iproute2 are needed): {error:#}")),
    }
}

impl Network {
    /// Makes namespaces for so many members.
    pub fn new(places: u8) -> anyhow::Result<Network> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id().wrapping_mul(31).wrapping_add(MADE.fetch_add(1, Ordering::Relaxed));
        let subnet = (number % 256) as u8;
        let network = Network { name: format!("fb{:x}", number % 0xf_ffff), subnet, places };
        let bridge = &network.name;
        ip(&["link", "add", bridge, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{}/24", network.address(254)), "dev", bridge])?;
        ip(&["link", "set", bridge, "up"])?;
        for place in 1..=places {
            let (namespace, link) = (network.namespace(place), network.link(place));
            ip(&["netns", "add", &namespace])?;
            ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
            ip(&["link", "set", &link, "master", bridge, "up"])?;
            ip(&["-n", &namespace, "addr", "add", &format!("{}/24", network.address(place)), "dev", "eth0"])?;
            ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
            ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        }
        Ok(network)
    }

    fn address(&self, place: u8) -> Ipv4Addr {
        // Of the range that is set apart for tests of networks.
        Ipv4Addr::new(198, 18, self.subnet, place)
    }

    fn namespace(&self, place: u8) -> String {
        format!("{}n{place}", self.name)
    }

    fn link(&self, place: u8) -> String {
        format!("{}v{place}", self.name)
    }

    /// The same in a namespace, and its addresses for clients and peers.
    pub(crate) fn place(&self, member: usize) -> anyhow::Result<[SocketAddr; 2]> {
        let place = u8::try_from(member + 1).ok().filter(|place| *place <= self.places);
        let place = place.context("the network has a place for each member")?;
        Ok([2379, 2380].map(|port| SocketAddr::from((self.address(place), port))))
    }

    /// The same command in the namespace of a member.
    pub(crate) fn inside(&self, member: usize, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.namespace(member as u8 + 1)]);
        inside.arg(command.get_program()).args(command.get_args());
        inside
    }

    /// What `from` sends to `to` does not arrive any more.
    pub fn cut(&self, from: usize, to: usize) -> anyhow::Result<()> {
        self.route("add", from, to)
    }

    fn route(&self, what: &str, from: usize, to: usize) -> anyhow::Result<()> {
        let (from, to) = (self.namespace(from as u8 + 1), self.address(to as u8 + 1));
        ip(&["-n", &from, "route", what, "blackhole", &format!("{to}/32")])
    }

    /// Everybody reaches everybody.
    pub fn heal(&self) {
        for from in 0..usize::from(self.places) {
            for to in 0..usize::from(self.places) {
                // There is nothing to take away where nothing was cut.
                let _ = self.route("del", from, to);
            }
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for place in 1..=self.places {
            let _ = ip(&["netns", "del", &self.namespace(place)]);
        }
        let _ = ip(&["link", "del", &self.name]);
    }
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let done = Command::new("ip").args(args).output().context("cannot run ip")?;
    ensure!(done.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}

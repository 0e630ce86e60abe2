//! The address that this machine is reached at from elsewhere.

use std::net::{Ipv4Addr, UdpSocket};

/// The address of the interface that the default route leaves by, if there is a default route.
///
/// etcd advertises it when it listens on every interface and was not told what to advertise. Connecting a UDP socket
/// asks the routing table and sends nothing.
pub fn default_host() -> Option<String> {
    // 192.0.2.0/24 is reserved for documentation: never local, so only the default route matches.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then(|| ip.to_string())
}

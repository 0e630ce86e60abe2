//! The roles of the binary, as processes: what a client on the other side of a socket gets of them.

mod attacks;
mod floors;
mod limits;
mod matrix;
mod pages;
mod peers;
mod pki;
mod rights;
mod role;
mod snapshots;
mod sockets;
mod tls;
mod traces;
mod upstreams;

//! The roles of the binary, as processes: what a client on the other side of a socket gets of them.

mod matrix;
mod pages;
mod peers;
mod pki;
mod role;
mod sockets;
mod tls;
mod traces;
mod upstreams;

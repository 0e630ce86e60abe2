//! The gateway in front of upstreams that misbehave on purpose, and of real etcd.

mod admission;
mod client;
mod failures;
mod fake;
mod forwarding;
mod keep_alive;
mod lifecycle;
mod logins;
mod mirror;
mod peers;
mod real;
mod restarts;

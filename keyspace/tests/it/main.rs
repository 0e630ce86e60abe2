//! The keyspace from outside: against a reference, under threads, and against hashes of a real etcd.

mod chunks;
mod concurrent;
mod hash;
mod model;
mod program;

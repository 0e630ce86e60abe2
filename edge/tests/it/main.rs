//! The edge against real peers, where they are installed.

mod etcd;
mod json;

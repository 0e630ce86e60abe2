//! The edge against hostile clients, and against real peers where they are installed.

mod etcd;
mod hostile;
mod json;

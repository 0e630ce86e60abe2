//! Every comparison, once for every target that is installed.

mod cases;
mod clients;
mod cluster;
mod crash;
mod etcdctl;
mod flaps;
mod http;
mod metrics;
mod programs;
mod swap;
mod tools;
mod watches;

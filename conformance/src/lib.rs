//! The same requests to real etcd and to Forebay, and every field of every answer compared.
//!
//! Three things meet here. A [`Target`](target::Target) is a running process that speaks etcd's
//! protocol: etcd of some release, `forebay server`, or `forebay gateway` in front of either. A
//! [`Session`](session::Session) sends requests to one target and records what came back, with
//! everything that must differ between two runs replaced by what it stands for. The
//! [differ](diff) names every place where two recordings are not the same, and
//! [`allowed`] lists, with a reason each, the few places where they need not be.
//!
//! What is recorded comes from [`cases`] (one per fact of the protocol), from seeded random
//! [`programs`] and [`watches`], from [`http`] requests and from [`etcdctl`] itself. [`crash`] asks
//! the other question: whether what was acknowledged is still there after a `kill -9`, or after the [power](power) of its disk was cut; [`cluster`] asks it of several
//! members, of one kind or mixed; [`faults`] of what is done to them from outside, in a [`network`] of their own too or [far away](faraway) from each other, and
//! [`failpoints`] of those that end at a named place, [`corruption`] of those that hold something else than the others; [`histories`] has what was seen through two gateways checked while members fail;
//! [`metrics`] reads what both count; [`advisories`] tries what etcd's advisories are about, [`hostile`] what else a client may do to harm, [`malformed`] requests that no client sends;
//! [`content`] is everything that a member has, for moving its files, and [`tools`] runs what reads them.
//!
//! **Invariant:** this crate knows `forebay-proto`, processes and the checker of `forebay-loadtest`, and nothing that is
//! tested here: that cannot be mistaken in the same way by its test.

pub mod peers;
pub mod target;

pub mod outcome;
pub mod session;
pub mod streams;

pub mod allowed;
pub mod browser;
pub mod diff;
pub mod runner;

pub mod cases;
pub mod programs;
pub mod specs;
pub mod watches;

pub mod etcdctl;
pub mod http;

pub mod advisories;
pub mod cluster;
pub mod content;
pub mod corruption;
pub mod crash;
pub mod failpoints;
pub mod faraway;
pub mod faults;
pub mod flaps;
pub mod gateways;
pub mod histories;
pub mod hostile;
pub mod malformed;
pub mod metrics;
pub mod monitoring;
pub mod network;
pub mod power;
pub mod tools;

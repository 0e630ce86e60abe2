//! Who may do how much to etcd: the decisions of admission, and nothing but decisions.
//!
//! A request is described by its [`Request`] attributes. A [`Policy`], read from a file by [`file::load`], classifies
//! it: identity, method and keys decide its rule, its priority level and its flow. [`Cost::predict`] says what it will
//! cost. [`Accounts`] hold it to the limits of its rule, a [`Scheduler`] lets it wait for a seat, fairly,
//! and how many seats there are follows from what the upstream bears. When the answer is known, everything is settled.
//!
//! Time is handed in, randomness too; nothing here waits, reads a file or knows how a request came in.

pub mod suggest;

mod client;
pub mod prefix;
mod request;
mod rpc;
mod text;

pub mod builtin;
pub mod file;
mod policy;
pub mod units;

pub mod bucket;
mod classify;
mod cost;
mod fair;
mod limits;
mod sizes;
mod watched;

pub mod adaptive;
pub mod memory;
pub mod shed;
pub mod throttle;

pub mod explain;
pub mod guesses;
pub mod heavy;
pub mod quota;
pub mod shares;

#[cfg(test)]
mod testing;

pub use crate::{
    classify::Class,
    client::{Client, ClientName, IdentitySource, Network, Subject},
    cost::{Actual, Cost, Expected, SEATS_MAX},
    fair::{Enqueued, Entry, Occupancy, Rejected, Scheduler, Ticket, Woken},
    file::{Distinguisher, Mode, OnLimit, Scope},
    limits::{Accounts, Charge, Limit, Receipt, Refusal, Share, Verdict},
    policy::{Codel, HardLimits, Level, LevelId, Limits, Match, Namespace, Policy, Quota, Rule, RuleId},
    request::{Answer, KubernetesWrite, Request},
    rpc::{Kind, Rpc},
    sizes::Sizes,
    watched::Watched,
};

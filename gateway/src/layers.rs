//! The layers of the stack, one file each, in the order in which a call meets them.

mod deadline;
mod drain;
mod hops;
mod keep_alive;
mod members;
mod observe;
mod route;

pub(crate) use deadline::Deadline;
pub(crate) use drain::{Drain, Draining};
pub(crate) use hops::Hops;
pub(crate) use hops::{LOOP, VIA};
pub(crate) use keep_alive::KeepAlive;
pub(crate) use members::Members;
pub(crate) use observe::Observe;
pub(crate) use route::route;

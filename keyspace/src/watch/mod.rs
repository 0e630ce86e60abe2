//! Watches: one notifier publishes batches, any number of streams read them at their own pace.
//!
//! [`Hub::publish`] finds the watchers of each change and leaves references to it in their streams' mailboxes;
//! [`WatchStream::poll`] turns those into gRPC messages when the client has room for them. A stream that is too slow for
//! its mailbox reads the shared history instead, from where it stopped, and costs nobody anything else.
//!
//! The hub neither waits nor wakes by itself: time (periodic progress), permissions, and the end of a stream are its
//! caller's. Server and gateway use it alike, over different [`History`]s.

mod catch_up;
mod encode;
mod feed;
mod hub;
mod interval;
mod mailbox;
mod outbox;
mod slab;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

pub use encode::HeaderBase;
pub use feed::{BadEvent, CatchUp, Events, Fed, Order, Ticket};
pub use hub::{History, Hub, HubStats};
pub use mailbox::Waker;
pub use stream::{Polled, WatchStream};

//! The command line of Forebay: what it was told, which role that asks for, and how the process ends.
//!
//! In reading order: [`cli`] picks the command, [`flags`] makes a validated configuration of what the operator said,
//! [`logging`] is set up from it, and [`roles`] runs it.

pub mod bench;
pub mod cli;
pub mod commands;
pub mod completion;
pub mod console;
pub mod dashboards;
pub mod demo;
pub mod discovery;
pub mod doctor;
pub mod flags;
pub mod help;
pub mod logging;
pub mod manual;
mod notify;
pub mod observe;
pub mod openapi;
pub mod policy;
pub mod roles;
pub mod signals;
mod traces;
pub use forebay_policies::suggest;
pub mod utl;
pub mod version;

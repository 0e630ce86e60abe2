//! The bundled server's flags: every one that etcd 3.7 has, and what becomes of them.

mod host;
mod settings;
mod table;
mod validate;

pub use host::default_host;
pub use settings::Settings;
pub use table::{UNUSED, flags};
pub use validate::{Said, Verdict, validate};

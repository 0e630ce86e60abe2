//! HTTP/1.1 by hand, so that odd requests can be sent byte for byte, and the table of them.

mod call;
mod table;

pub use call::{Call, Response};
pub use table::{Compare, Exchange, record, table};

//! HTTP/1.1 by hand, so that odd requests can be sent byte for byte, and the table of them.

mod call;

pub use call::{Call, Response};

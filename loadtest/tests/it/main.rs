//! Loads on a server that does nothing, and what is told of them.

mod honest;

//! Every comparison, once for every target that is installed.

mod cases;

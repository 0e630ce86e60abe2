//! Files made here, and what the commands make of them, whole or damaged.

mod damage;
mod files;
mod healing;
mod restoring;

//! Finds and runs real etcd.

//! Real etcd, directly and through the gateway.

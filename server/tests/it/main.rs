//! The bundled member from outside: started in this process, called with gRPC requests built by hand.
//!
//! Nothing here needs more than cargo. What only a comparison with etcd can show is in `conformance`.

mod auth;
mod cluster;
mod concurrency;
mod errors;
mod faults;
mod headers;
mod hostile;
mod leases;
mod maintenance;
mod methods;
mod mishaps;
mod quota;
mod quotas;
mod refused;
mod restarts;
mod rights;
mod sizes;
mod streams;
mod support;
mod wall_clock;

//! Every comparison, once for every target that is installed.

mod advisories;
mod auth;
mod bench;
mod boards;
mod cases;
mod clients;
mod cluster;
mod console;
mod corruption;
mod crash;
mod damage;
mod doctor;
mod etcdctl;
mod faults;
mod flaps;
mod gateways;
mod histories;
mod hostile;
mod http;
mod malformed;
mod metrics;
mod openapi;
mod packaging;
mod programs;
mod promises;
mod specs;
mod swap;
mod tools;
mod watches;

use std::{future::Future, time::Duration};

/// The whole of a test that talks to other processes: none of them may keep it for ever.
async fn within(test: impl Future<Output = anyhow::Result<()>>) {
    const LIMIT: Duration = Duration::from_secs(240);
    tokio::time::timeout(LIMIT, test).await.expect("the processes answer in time").expect("the test succeeds");
}

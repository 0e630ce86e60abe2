//! Servers and clients that in truth have machines of their own.
//!
//! Where everything runs on one machine, what clients do to send and to read takes CPU time from the servers and from
//! whoever is measured beside them, which would not be so in earnest.

use std::{io, sync::OnceLock};

use anyhow::ensure;
use rustix::{
    process::setpriority_process,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use tokio::runtime::{Builder, Handle, Runtime};

/// The processors of servers, if they have some of their own.
static SERVERS: OnceLock<CpuSet> = OnceLock::new();
/// The least priority there is, in steps of `nice`.
const LEAST: i32 = 19;

/// From now on servers that are started have one half of the processors, and this thread and what it begins the other.
pub fn divide() -> anyhow::Result<()> {
    let all = sched_getaffinity(None)?;
    let usable: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).collect();
    ensure!(usable.len() > 1, "servers and clients need a processor each");
    let (servers, clients) = usable.split_at(usable.len() / 2);
    let set = |cpus: &[usize]| {
        let mut set = CpuSet::new();
        cpus.iter().for_each(|cpu| set.set(*cpu));
        set
    };
    SERVERS.get_or_init(|| set(servers));
    Ok(sched_setaffinity(None, &set(clients))?)
}

/// Does something on the servers' processors, such as starting one.
pub(crate) fn as_server<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    let Some(servers) = SERVERS.get() else { return Ok(work()) };
    let own = sched_getaffinity(None)?;
    sched_setaffinity(None, servers)?;
    let done = work();
    sched_setaffinity(None, &own)?;
    Ok(done)
}

/// Clients beside whom others are measured: their threads run when nobody else wants to. What they do ends when it is
/// dropped.
#[derive(Debug)]
pub struct Elsewhere(Option<Runtime>);

impl Elsewhere {
    /// Threads for two processors.
    pub fn new() -> io::Result<Elsewhere> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("elsewhere")
            .on_thread_start(|| {
                // Of the calling thread alone, in Linux. Where it may not, it is as any other.
                let _ = setpriority_process(None, LEAST);
            })
            .enable_all()
            .build()?;
        Ok(Elsewhere(Some(runtime)))
    }

    /// Where to spawn them.
    pub fn handle(&self) -> &Handle {
        self.0.as_ref().expect("invariant: it is there until the drop").handle()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // A task may drop it, which must not wait.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

//! Being told to stop, and ending the way the signal would have ended us.

use std::io;

use signal_hook::{consts::signal, low_level};
use tokio::signal::unix::{SignalKind, signal as listen};

/// A signal that asks the process to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Interrupt,
    Terminate,
}

impl Stop {
    /// As Go prints the signal.
    pub fn as_str(self) -> &'static str {
        match self {
            Stop::Interrupt => "interrupt",
            Stop::Terminate => "terminated",
        }
    }
}

/// Waits for SIGINT or SIGTERM. A further one ends the process at once, whatever it is waiting for.
pub async fn stop() -> io::Result<Stop> {
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut next = async move || {
        tokio::select! {
            _ = interrupt.recv() => Stop::Interrupt,
            _ = terminate.recv() => Stop::Terminate,
        }
    };
    let first = next().await;
    tokio::spawn(async move { end_by(next().await) });
    Ok(first)
}

/// Ends the process by the signal itself, as etcd does: whoever waits for it sees what it was told.
///
/// The first process of a container cannot be killed so; it exits with 0.
pub fn end_by(stop: Stop) -> ! {
    let signal = match stop {
        Stop::Interrupt => signal::SIGINT,
        Stop::Terminate => signal::SIGTERM,
    };
    if std::process::id() != 1 {
        // Comes back only if the signal was blocked from outside.
        let _ = low_level::emulate_default_handler(signal);
    }
    std::process::exit(0)
}

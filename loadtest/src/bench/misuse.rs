//! The entries of the abuse catalogue one after the other, as a load: beside each of them a bystander is measured.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::sync::watch;

use super::meter::{BESIDE, Meter};
use crate::{
    abuse::{self, Abuse, Did},
    client::Target,
};

/// How long an entry may take to end when it is told to: its calls may never be answered.
const ENDS: Duration = Duration::from_secs(5);

/// What is done to the target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Misuse {
    /// In this order, for an equal part of the run each.
    pub entries: Vec<Abuse>,
    /// How much of it: 1 is 20,000 objects.
    pub size: f64,
}

impl Misuse {
    /// Which entry goes on so long after the beginning.
    fn at(&self, elapsed: Duration, run: Duration) -> Option<Abuse> {
        let place = elapsed.as_secs_f64() / run.as_secs_f64() * self.entries.len() as f64;
        self.entries.get(place as usize).copied()
    }

    /// The name of what is measured beside the entry that goes on then.
    pub(super) fn series_at(&self, elapsed: Duration, run: Duration) -> Option<String> {
        self.at(elapsed, run).map(|entry| format!("{BESIDE}{}", entry.name()))
    }

    /// Does it all, from a moment on and for so long, and counts what came of it.
    pub(super) async fn run(
        self,
        target: Target,
        begin: Instant,
        run: Duration,
        meter: Arc<Meter>,
    ) -> anyhow::Result<()> {
        let each = run.div_f64(self.entries.len().max(1) as f64);
        for (place, entry) in (0u32..).zip(self.entries) {
            tokio::time::sleep_until((begin + each * place).into()).await;
            let (stop, stopped) = watch::channel(false);
            let abused = target.clone();
            let abusing = tokio::spawn(async move { abuse::abuse(entry, &abused, self.size, stopped).await });
            tokio::time::sleep_until((begin + each * (place + 1)).into()).await;
            stop.send_replace(true);
            let Ok(ended) = tokio::time::timeout(ENDS, abusing).await else { continue };
            let Did { done, refused, failed } = ended.context("the abuse panicked")??;
            for (what, count) in [("done", done), ("refused", refused), ("failed", failed)] {
                if count == 0 {
                    continue;
                }
                meter.count(&format!("{} {what}", entry.name()), count);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_has_an_equal_part_of_the_run() {
        let misuse = Misuse { entries: vec![Abuse::ListAll, Abuse::HugeTxn], size: 1.0 };
        let run = Duration::from_secs(10);
        let at = |seconds| misuse.series_at(Duration::from_secs(seconds), run);
        assert_eq!(at(0).as_deref(), Some("beside list-all"));
        assert_eq!(at(5).as_deref(), Some("beside huge-txn"));
        assert_eq!(at(10), None);
    }
}

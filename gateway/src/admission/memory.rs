//! The bytes that the gateway holds for clients: requests that were read and not sent on, answers that
//! were received and not sent out. What does not fit waits, then is refused; the process is never
//! killed for it.
//!
//! Small things are not counted one by one; the bound on streams of a connection bounds those.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, TryAcquireError},
    time,
};

/// What has less bytes is not counted: the bound on streams bounds it.
pub(super) const SMALL: usize = 64 << 10;

/// Counted in units, so that the count of a semaphore suffices for any memory.
const UNIT: usize = 1 << 10;

/// What is left, shared by all who hold something.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    left: Arc<Semaphore>,
    total: usize,
}

/// Bytes that are held; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    memory: Memory,
    units: usize,
}

/// There was no room in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Memory {
    pub(crate) fn new(bytes: usize) -> Memory {
        // Less than a few of the largest messages would refuse what is harmless.
        let total = bytes.max(16 << 20) / UNIT;
        Memory { left: Arc::new(Semaphore::new(total)), total }
    }

    /// Nothing yet.
    pub(crate) fn none(&self) -> Reserved {
        Reserved { memory: self.clone(), units: 0 }
    }

    /// Bytes in all.
    pub(crate) fn total(&self) -> usize {
        self.total * UNIT
    }

    /// Bytes that are held.
    pub(crate) fn held(&self) -> usize {
        (self.total - self.left.available_permits().min(self.total)) * UNIT
    }
}

impl Reserved {
    /// Holds `bytes` more. Waits for others to give back, first come first served, at most for
    /// `patience`.
    pub(crate) async fn grow(&mut self, bytes: usize, patience: Duration) -> Result<(), Full> {
        // Whatever is larger than all there is would never come; it gets everything, alone.
        let units = bytes.div_ceil(UNIT).min(self.memory.total.saturating_sub(self.units));
        let count = u32::try_from(units).map_err(|_| Full)?;
        let permit = match self.memory.left.try_acquire_many(count) {
            Ok(permit) => permit,
            Err(TryAcquireError::Closed) => unreachable!("the semaphore is never closed"),
            Err(TryAcquireError::NoPermits) => {
                match time::timeout(patience, self.memory.left.acquire_many(count)).await {
                    Ok(permit) => permit.expect("the semaphore is never closed"),
                    Err(_elapsed) => return Err(Full),
                }
            }
        };
        permit.forget();
        self.units += units;
        Ok(())
    }

    /// Gives back all but `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let kept = bytes.div_ceil(UNIT).min(self.units);
        self.memory.left.add_permits(self.units - kept);
        self.units = kept;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;
    const SOON: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn what_does_not_fit_waits_for_room_and_then_is_refused() {
        let memory = Memory::new(20 * MIB);
        let mut first = memory.none();
        first.grow(15 * MIB, SOON).await.unwrap();
        let mut second = memory.none();
        assert_eq!(second.grow(6 * MIB, SOON).await, Err(Full));
        let waiting = second.grow(6 * MIB, SOON);
        let giving = async {
            time::sleep(SOON / 2).await;
            first.shrink_to(14 * MIB);
        };
        assert_eq!(tokio::join!(waiting, giving).0, Ok(()));
        assert_eq!(memory.held(), 20 * MIB);
        drop((first, second));
        assert_eq!(memory.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_all_is_all() {
        let memory = Memory::new(16 * MIB);
        let mut all = memory.none();
        all.grow(MIB, SOON).await.unwrap();
        all.grow(1 << 40, SOON).await.unwrap();
        assert_eq!(memory.held(), memory.total());
        drop(all);
        assert_eq!(memory.held(), 0);
    }
}

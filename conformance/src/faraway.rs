//! A way to an address on which everything takes longer, there and back, or worse; it needs no rights.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

/// What may happen to what is carried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// In each direction.
    pub delay: Duration,
    /// So much more at most, another for each piece.
    pub jitter: Duration,
    /// Of what part of the pieces a packet is lost: what follows waits until it is sent again.
    pub loss: f64,
    /// In each direction of a connection.
    pub bytes_per_second: Option<u32>,
}

/// The weather of several ways. Clones are the same.
#[derive(Clone, Debug)]
pub struct Sky {
    weather: Arc<Mutex<(Weather, StdRng)>>,
    /// Counts the storms in which all connections were reset.
    storms: watch::Sender<u64>,
}

/// How long a sender waits before it sends again what was not acknowledged, at least: as in Linux.
const RETRANSMISSION: Duration = Duration::from_millis(200);

impl Sky {
    /// A lasting one.
    pub fn new(weather: Weather, seed: u64) -> Sky {
        Sky { weather: Arc::new(Mutex::new((weather, StdRng::seed_from_u64(seed)))), storms: watch::Sender::new(0) }
    }

    /// From now on it is like this.
    pub fn set(&self, weather: Weather) {
        self.now().0 = weather;
    }

    /// Resets all connections.
    pub fn storm(&self) {
        self.storms.send_modify(|storms| *storms += 1);
    }

    fn now(&self) -> MutexGuard<'_, (Weather, StdRng)> {
        self.weather.lock().expect("nobody panics about the weather")
    }

    /// When a piece of so many bytes arrives that is sent now, behind another one that arrives at `last`.
    fn arrival(&self, last: Instant, bytes: usize) -> Instant {
        let (weather, rng) = &mut *self.now();
        let mut under_way = weather.delay + weather.jitter.mul_f64(rng.random());
        if rng.random_bool(weather.loss) {
            under_way += RETRANSMISSION;
        }
        let takes = weather.bytes_per_second.map_or(0.0, |rate| bytes as f64 / f64::from(rate));
        last.max(Instant::now() + under_way) + Duration::from_secs_f64(takes)
    }
}

/// Who connects here is connected with somebody far away. The way ends with the value.
#[derive(Debug)]
pub struct Way {
    /// Where it begins.
    pub address: SocketAddr,
    carrying: JoinHandle<()>,
}

impl Way {
    /// A way to an address, under this sky.
    pub fn to(far: SocketAddr, sky: Sky) -> anyhow::Result<Way> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        let carrying = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let sky = sky.clone();
                tokio::spawn(async move {
                    // Nobody there is what the caller is told by the end of its connection.
                    let Ok(far) = TcpStream::connect(far).await else { return };
                    let mut storms = sky.storms.subscribe();
                    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
                    let back = tokio::spawn(carry(from_far, to_near, sky.clone()));
                    let there = tokio::spawn(carry(from_near, to_far, sky.clone()));
                    // Both ends see it end; one that had bytes under way, as reset.
                    let _ = storms.changed().await;
                    back.abort();
                    there.abort();
                });
            }
        });
        Ok(Way { address, carrying })
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.carrying.abort();
    }
}

/// Carries bytes in one direction, as many at a time as come: only their time changes.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, sky: Sky) {
    let (send, mut underway) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let write = async move {
        while let Some((due, bytes)) = underway.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let read = async move {
        let (mut buffer, mut last) = (vec![0; 64 << 10], Instant::now());
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            last = sky.arrival(last, count);
            if send.send((last, buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    // One task, so that whoever ends it ends both.
    tokio::join!(write, read);
}

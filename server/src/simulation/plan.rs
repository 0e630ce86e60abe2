//! What one run is like. Every seed has another mixture: a fault that is always on hides what only its absence shows.

use std::time::Duration;

use forebay_storage::failpoint::Point;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// A bug that is planted on purpose: a judge that has never caught one proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    /// The disk says that it has synced, and has not.
    LyingDisk,
    /// A write is acknowledged when it is proposed.
    EarlyAcknowledgement,
    /// A read does not ask for a read index.
    UnprovenRead,
    /// One event in some hundred does not reach its watcher.
    LostEvent,
    /// A lease ends a second early.
    HastyLease,
    /// A leader that was replaced while it was stopped ends leases through its successor.
    DeposedRevoke,
    /// A member that starts does not compare itself with the others.
    UncheckedStart,
}

impl Bug {
    pub(super) const ALL: [Bug; 7] = [
        Bug::LyingDisk,
        Bug::EarlyAcknowledgement,
        Bug::UnprovenRead,
        Bug::LostEvent,
        Bug::HastyLease,
        Bug::DeposedRevoke,
        Bug::UncheckedStart,
    ];
}

#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) members: u64,
    pub(super) tick: Duration,
    pub(super) snapshot_count: u64,
    pub(super) catchup_entries: u64,
    /// How long what was applied may wait for the db file.
    pub(super) batch: Duration,
    pub(super) segment_bytes: u64,
    /// Faults happen until then, and then the world is healed.
    pub(super) chaos: Duration,
    /// Between two faults, on average.
    pub(super) calm: Duration,
    pub(super) faults: Vec<(Fault, u32)>,
    pub(super) loss: f64,
    pub(super) duplication: f64,
    /// Of a message, on average.
    pub(super) delay: Duration,
    pub(super) clients: usize,
    pub(super) keepers: usize,
    pub(super) watchers: usize,
    /// Between an answer and the next request, on average.
    pub(super) think: Duration,
    pub(super) keys: u32,
    /// Bytes of a value, at least.
    pub(super) value_bytes: usize,
    /// Whether clients ask for compactions.
    pub(super) compacts: bool,
    /// Where [`Fault::Failpoint`] strikes.
    pub(super) points: Vec<Point>,
    pub(super) bug: Option<Bug>,
}

/// What may go wrong, beside what every message may suffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process ends; what it wrote is there.
    Kill,
    /// The machine ends; what was not synced is there or is not, sector by sector.
    PowerLoss,
    /// As that, for all machines at once.
    Blackout,
    /// The disk fails in the middle of something; then the process ends, or the machine.
    TornWrite,
    /// The process does not run for a while.
    Pause,
    /// The members fall into two parts.
    Partition,
    /// One member is heard and does not hear, or the reverse.
    OneWay,
    /// Most messages are lost for a while.
    LossySpell,
    /// One disk is slow for a while.
    SlowDisk,
    /// Another member is to lead.
    Transfer,
    /// A member joins, is promoted, or leaves.
    Membership,
    /// A db file is written anew.
    Defragment,
    /// Whichever member comes by a named place of the code next ends there.
    Failpoint,
    /// A disk changes what was synced.
    Damage,
}

const FAULTS: [Fault; 14] = [
    Fault::Kill,
    Fault::PowerLoss,
    Fault::Blackout,
    Fault::TornWrite,
    Fault::Pause,
    Fault::Partition,
    Fault::OneWay,
    Fault::LossySpell,
    Fault::SlowDisk,
    Fault::Transfer,
    Fault::Membership,
    Fault::Defragment,
    Fault::Failpoint,
    Fault::Damage,
];

impl Plan {
    /// The mixture of a seed.
    pub(super) fn of(seed: u64) -> Plan {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x0070_6c61_6e00);
        let millis = |rng: &mut StdRng, range: std::ops::Range<u64>| Duration::from_millis(rng.random_range(range));
        let mut faults = Vec::new();
        while faults.len() < 2 {
            faults = FAULTS.map(|fault| (fault, rng.random_range(0..5u32))).to_vec();
            faults.retain(|(_, weight)| *weight > 1);
        }
        Plan {
            members: if rng.random_bool(0.7) { 3 } else { 5 },
            tick: Duration::from_millis([100, 200, 500][rng.random_range(0..3)]),
            snapshot_count: rng.random_range(10..400),
            catchup_entries: rng.random_range(5..200),
            batch: Duration::from_millis([100, 1000, 5000][rng.random_range(0..3)]),
            segment_bytes: rng.random_range(4..64) << 10,
            chaos: Duration::from_secs(rng.random_range(5..40) * 60),
            calm: Duration::from_secs(rng.random_range(5..60)),
            faults,
            loss: if rng.random_bool(0.5) { rng.random_range(0.0..0.1) } else { 0.0 },
            duplication: if rng.random_bool(0.5) { rng.random_range(0.0..0.1) } else { 0.0 },
            delay: millis(&mut rng, 1..20),
            clients: rng.random_range(2..12),
            keepers: rng.random_range(0..4),
            watchers: rng.random_range(1..5),
            think: millis(&mut rng, 200..4000),
            keys: rng.random_range(1..30),
            value_bytes: rng.random_range(0..200),
            compacts: rng.random_bool(0.8),
            points: Point::ALL.to_vec(),
            bug: None,
        }
    }

    /// The same with a bug, and what brings it to light.
    pub(super) fn with_bug(seed: u64, bug: Bug) -> Plan {
        let mut plan =
            Plan { bug: Some(bug), think: Duration::from_millis(200), keys: 3, clients: 8, ..Plan::of(seed) };
        let needed: &[Fault] = match bug {
            Bug::LyingDisk => &[Fault::PowerLoss, Fault::Blackout],
            Bug::EarlyAcknowledgement | Bug::UnprovenRead => &[Fault::Partition, Fault::Kill, Fault::OneWay],
            Bug::LostEvent => &[Fault::Transfer],
            Bug::UncheckedStart => {
                (plan.value_bytes, plan.compacts) = (300, false);
                &[Fault::Damage]
            }
            Bug::DeposedRevoke => {
                plan.keepers = 8;
                &[Fault::Pause]
            }
            Bug::HastyLease => {
                plan.keepers = 4;
                &[Fault::Transfer]
            }
        };
        plan.faults = needed.iter().map(|fault| (*fault, 1)).collect();
        plan.calm = Duration::from_secs(10);
        plan.chaos = Duration::from_secs(300);
        plan
    }

    /// The same with disks that change what they hold, and members that come and go.
    pub(super) fn with_damage(seed: u64) -> Plan {
        Plan {
            members: 3,
            chaos: Duration::from_secs(600),
            calm: Duration::from_secs(5),
            faults: [(Fault::Damage, 4), (Fault::Kill, 1), (Fault::PowerLoss, 1)].to_vec(),
            clients: 8,
            think: Duration::from_millis(300),
            value_bytes: 300,
            // What was compacted meanwhile cannot be compared.
            compacts: false,
            ..Plan::of(seed)
        }
    }

    /// The same with what leads members to all the places where they may be made to end.
    pub(super) fn with_failpoints(seed: u64, points: Vec<Point>) -> Plan {
        let mut plan = Plan {
            members: 3,
            tick: Duration::from_millis(100),
            chaos: Duration::from_secs(150),
            calm: Duration::from_secs(1),
            clients: 4,
            think: Duration::from_millis(400),
            snapshot_count: 20,
            catchup_entries: 5,
            batch: Duration::from_millis(100),
            segment_bytes: 4 << 10,
            keepers: 4,
            points,
            ..Plan::of(seed)
        };
        use Fault::*;
        plan.faults = [(Failpoint, 10), (Defragment, 2), (Partition, 1), (Membership, 2), (Transfer, 1)].to_vec();
        plan
    }

    pub(super) fn election(&self) -> Duration {
        self.tick * ELECTION_TICKS
    }
}

pub(super) const ELECTION_TICKS: u32 = 10;

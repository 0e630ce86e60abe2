//! How to serve a read under pressure: each step costs the upstream less than the one before, and the client more.

/// What could be done about a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Situation {
    /// A mirror holds the range, is fresh enough, and the client may read it there.
    pub mirrored: bool,
    /// The same read of a client with the same rights has been sent and not answered, and began late enough to be as
    /// fresh.
    pub twin_in_flight: bool,
    /// Objects the read is predicted to answer with.
    pub objects: u64,
    /// Bytes it is predicted to answer with.
    pub bytes: u64,
    /// It may be read in pages at one revision: a plain range in the order of keys.
    pub divisible: bool,
    /// The upstream is overloaded: requests wait for seats.
    pub overloaded: bool,
    /// Another read of this size waits or runs for the same prefix already.
    pub giant_under_way: bool,
    /// There is room in its queue.
    pub may_wait: bool,
}

/// How a read is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// From the mirror: the upstream does not notice.
    Mirror,
    /// With the answer to the same read of somebody else.
    JoinTwin,
    /// As it is.
    Forward,
    /// In pages of so many objects.
    Chunk(u64),
    /// Behind the other giant reads of its prefix.
    QueueAlone,
    /// Not at all.
    Shed,
}

/// What one page may have in bytes: as much as is let into a seat's worth of memory without being noticed.
const PAGE_BYTES: u64 = 1 << 20;
/// A read of more than this is not asked for in one piece.
const WHOLE_BYTES: u64 = 8 << 20;

/// The first step that is possible.
pub fn step(situation: &Situation) -> Step {
    let giant = situation.bytes > WHOLE_BYTES;
    if situation.mirrored {
        Step::Mirror
    } else if situation.twin_in_flight {
        Step::JoinTwin
    } else if giant && situation.giant_under_way {
        if situation.may_wait { Step::QueueAlone } else { Step::Shed }
    } else if giant && situation.divisible {
        Step::Chunk(page_objects(situation))
    } else if giant && situation.overloaded {
        if situation.may_wait { Step::QueueAlone } else { Step::Shed }
    } else {
        Step::Forward
    }
}

/// As many objects as fill a page, by their predicted mean size.
fn page_objects(situation: &Situation) -> u64 {
    let mean = (situation.bytes / situation.objects.max(1)).max(1);
    (PAGE_BYTES / mean).clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_is_gone_down_step_by_step() {
        let list = Situation {
            objects: 320_186,
            bytes: 320_186 << 10,
            divisible: true,
            may_wait: true,
            ..Situation::default()
        };
        for (situation, wanted) in [
            (Situation { mirrored: true, twin_in_flight: true, ..list }, Step::Mirror),
            (Situation { twin_in_flight: true, ..list }, Step::JoinTwin),
            (list, Step::Chunk(1_024)),
            (Situation { giant_under_way: true, ..list }, Step::QueueAlone),
            (Situation { giant_under_way: true, may_wait: false, ..list }, Step::Shed),
            (Situation { divisible: false, ..list }, Step::Forward),
            (Situation { divisible: false, overloaded: true, ..list }, Step::QueueAlone),
            (Situation { objects: 10, bytes: 10 << 10, overloaded: true, ..list }, Step::Forward),
        ] {
            assert_eq!(step(&situation), wanted, "{situation:?}");
        }
    }
}

//! Shuffle sharding: which few of many queues belong to a flow.

/// The queues of a flow, no two the same: `hand_size` cards dealt from a deck of `queues`.
///
/// Two flows that share some queue are likely to have another each that they do not share. `hand_size` is at most
/// `queues`, and `queues` to the power of `hand_size` fits 64 bits.
pub(super) fn hand(flow: u64, queues: u32, hand_size: u32) -> impl Iterator<Item = u32> {
    let mut rest = flow;
    let mut dealt: smallvec::SmallVec<[u32; 8]> = smallvec::SmallVec::new();
    (0..hand_size).map(move |at| {
        let left = u64::from(queues - at);
        let mut card = (rest % left) as u32;
        rest /= left;
        // The card's place among those that are left becomes its place in the deck. `dealt` is sorted.
        let mut place = 0;
        while place < dealt.len() && dealt[place] <= card {
            card += 1;
            place += 1;
        }
        dealt.insert(place, card);
        card
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_hand_has_no_card_twice(flow in any::<u64>(), queues in 1u32..128, size in 1u32..8) {
            let size = size.min(queues);
            let mut cards: Vec<u32> = hand(flow, queues, size).collect();
            prop_assert_eq!(cards.len(), size as usize);
            cards.sort_unstable();
            cards.dedup();
            prop_assert_eq!(cards.len(), size as usize);
            prop_assert!(cards.iter().all(|card| *card < queues));
        }
    }

    #[test]
    fn hands_are_spread_evenly() {
        let (queues, size, flows) = (64, 6, 64_000u64);
        let mut counts = vec![0u64; queues as usize];
        for flow in 0..flows {
            let flow = flow.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            for card in hand(flow, queues, size) {
                counts[card as usize] += 1;
            }
        }
        let mean = flows * u64::from(size) / u64::from(queues);
        assert!(counts.iter().all(|count| count.abs_diff(mean) < mean / 10), "{counts:?}");
    }
}

//! "Did you mean …": the known word nearest to one that is not.

/// The candidate that takes the fewest edits, if few enough that it may have been meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer words than any candidate are not worth the quadratic walk.
    if word.len() > 100 {
        return None;
    }
    let bound = (word.chars().count() / 3).clamp(1, 5);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(edits, _)| *edits <= bound)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`, case aside.
fn distance(a: &str, b: &str) -> usize {
    let chars = |text: &str| text.chars().map(|c| c.to_ascii_lowercase()).collect::<Vec<char>>();
    let (a, b) = (chars(a), chars(b));
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_find_their_word_and_far_ones_none() {
        let words = ["listen-client-urls", "listen-peer-urls", "name", "data-dir"];
        for (given, meant) in [
            ("listen-client-url", Some("listen-client-urls")),
            ("LISTEN-CLIENT-URLS", Some("listen-client-urls")),
            ("datadir", Some("data-dir")),
            ("nmae", Some("name")),
            ("nope", None),
            ("", None),
            ("verbose", None),
        ] {
            assert_eq!(nearest(given, words), meant, "{given:?}");
        }
    }
}

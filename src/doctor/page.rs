//! A metrics page, read as far as checks need it.

/// The samples of a page.
#[derive(Clone, Debug, Default)]
pub(super) struct Page(Vec<(String, String, f64)>);

impl Page {
    pub(super) fn parse(text: &str) -> Page {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            Some((name.to_owned(), labels.trim_end_matches('}').to_owned(), value.parse().ok()?))
        });
        Page(samples.collect())
    }

    /// The sum of a family over its labels; none if it is not there.
    pub(super) fn sum(&self, name: &str) -> Option<f64> {
        let mut samples = self.0.iter().filter(|(own, ..)| own == name).map(|(.., value)| *value).peekable();
        samples.peek().is_some().then(|| samples.sum())
    }

    /// What a share of a histogram's observations did not exceed, by its buckets; none if there are none.
    pub(super) fn quantile(&self, name: &str, share: f64) -> Option<f64> {
        let bucket = format!("{name}_bucket");
        let mut bounds: Vec<(f64, f64)> = Vec::new();
        for (_, labels, value) in self.0.iter().filter(|(own, ..)| *own == bucket) {
            let bound = labels.split(',').find_map(|label| label.strip_prefix("le=\""))?.trim_end_matches('"');
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            match bounds.iter_mut().find(|(own, _)| *own == bound) {
                Some((_, count)) => *count += value,
                None => bounds.push((bound, *value)),
            }
        }
        bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let total = bounds.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
        bounds.into_iter().find(|(_, count)| *count >= total * share).map(|(bound, _)| bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_quantiles_are_over_all_labels() {
        let page = Page::parse(
            "# TYPE a counter\na{x=\"1\"} 2\na{x=\"2\"} 3\nb_bucket{le=\"0.1\"} 90\nb_bucket{le=\"1\"} 99\n\
             b_bucket{le=\"+Inf\"} 100\nb_sum 3\nb_count 100\nc_bucket{le=\"+Inf\"} 0\n",
        );
        assert_eq!((page.sum("a"), page.sum("missing")), (Some(5.0), None));
        assert_eq!((page.quantile("b", 0.5), page.quantile("b", 0.99)), (Some(0.1), Some(1.0)));
        assert_eq!(page.quantile("b", 0.999), Some(f64::INFINITY));
        assert_eq!((page.quantile("c", 0.5), page.quantile("a", 0.5)), (None, None));
    }
}

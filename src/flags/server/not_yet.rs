//! Flags that are read and validated and that the member does nothing about yet.
//!
//! Giving one is said in the log. A flag leaves this list in the commit that honours it.

pub(super) const NOT_YET: [&str; 2] = ["initial-election-tick-advance", "raft-write-timeout"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flags_that_exist_and_have_a_meaning_are_listed() {
        for name in NOT_YET {
            let flag = crate::flags::server::flags().into_iter().find(|flag| flag.name == name);
            assert!(flag.is_some_and(|flag| flag.unused().is_none()), "--{name}");
        }
    }
}

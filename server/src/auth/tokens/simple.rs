//! Tokens of random letters, given through the log, so that every member that runs knows them.
//!
//! A restart forgets them, and clients log in again. Each lasts for its TTL from its last use, as this member sees it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rand::Rng as _;

/// Letters before the dot: 136 random bits, where etcd's 16 letters are 91. Members of etcd take any number.
const LETTERS: usize = 24;
/// Tokens that are remembered. Beyond it the one goes that was not looked at for longest.
const TOKENS_MAX: usize = 100_000;

/// The tokens that this member knows.
#[derive(Debug)]
pub struct SimpleTokens {
    ttl: Duration,
    table: Mutex<Table>,
}

/// Invariant: every token of `known` stands once in `due`, which may name tokens that are gone.
#[derive(Debug, Default)]
struct Table {
    known: HashMap<Arc<str>, Token>,
    /// When to look whether they have expired, ascending.
    due: VecDeque<(Instant, Arc<str>)>,
}

#[derive(Debug)]
struct Token {
    user: Arc<str>,
    /// Of the entry that gave it.
    index: u64,
    expiry: Instant,
}

/// What is known of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is this user's.
    User(Arc<str>),
    /// It is nobody's, unless an entry gives it that is not applied here yet; such a one has this index or the next.
    Nobody {
        /// That the token names.
        index: u64,
    },
    /// It is no token.
    Malformed,
}

/// The random part of a new token.
pub fn new_prefix() -> String {
    // The generator is cryptographic and seeded by the operating system.
    let mut random = rand::rng();
    let letters: Vec<char> = ('a'..='z').chain('A'..='Z').collect();
    (0..LETTERS).map(|_| letters[random.random_range(0..letters.len())]).collect()
}

impl SimpleTokens {
    /// Tokens that last for `ttl`.
    pub fn new(ttl: Duration) -> SimpleTokens {
        SimpleTokens { ttl, table: Mutex::default() }
    }

    /// Remembers the token that the entry at `index` gives to a user.
    pub fn assign(&self, user: &str, prefix: &str, index: u64, now: Instant) {
        // A member that gives another kind of tokens leaves it empty, and anybody could guess that.
        if prefix.is_empty() {
            return;
        }
        let mut table = self.table.lock();
        while table.known.len() >= TOKENS_MAX
            && let Some((_, oldest)) = table.due.pop_front()
        {
            table.known.remove(&oldest);
        }
        let prefix: Arc<str> = prefix.into();
        let expiry = now + self.ttl;
        let given = table.known.insert(Arc::clone(&prefix), Token { user: user.into(), index, expiry });
        if given.is_none() {
            table.due.push_back((expiry, prefix));
        }
    }

    /// Whose token this is. It lasts from now on.
    pub fn find(&self, token: &str, now: Instant) -> Found {
        let Some((prefix, index)) = token.split_once('.') else { return Found::Malformed };
        let digits = index.bytes().all(|byte| byte.is_ascii_digit());
        let Some(index) = index.parse::<u64>().ok().filter(|_| digits) else { return Found::Malformed };
        match self.table.lock().known.get_mut(prefix) {
            // etcd writes the index of the entry up to 3.5, and the one before since 3.6.
            Some(known) if known.expiry > now && [Some(index), index.checked_add(1)].contains(&Some(known.index)) => {
                known.expiry = now + self.ttl;
                Found::User(Arc::clone(&known.user))
            }
            _ => Found::Nobody { index },
        }
    }

    /// Forgets the tokens of a user.
    pub fn revoke(&self, user: &str) {
        self.table.lock().known.retain(|_, token| *token.user != *user);
    }

    /// Forgets all tokens.
    pub fn clear(&self) {
        *self.table.lock() = Table::default();
    }

    /// Forgets what has expired.
    pub fn expire(&self, now: Instant) {
        let Table { known, due } = &mut *self.table.lock();
        while let Some((_, prefix)) = due.pop_front_if(|(at, _)| *at <= now) {
            match known.get(&prefix).map(|token| token.expiry) {
                Some(expiry) if expiry > now => due.push_back((expiry, prefix)),
                _ => drop(known.remove(&prefix)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(300);

    fn start() -> Instant {
        Instant::now()
    }

    fn user(name: &str) -> Found {
        Found::User(name.into())
    }

    #[test]
    fn a_token_lasts_from_its_last_use() {
        let (tokens, now) = (SimpleTokens::new(TTL), start());
        tokens.assign("alice", "abc", 7, now);
        assert_eq!(tokens.find("abc.7", now + TTL / 2), user("alice"));
        tokens.expire(now + TTL);
        assert_eq!(tokens.find("abc.6", now + TTL * 5 / 4), user("alice"));
        assert_eq!(tokens.find("abc.7", now + TTL * 9 / 4), Found::Nobody { index: 7 });
        tokens.expire(now + TTL * 3);
        assert!(tokens.table.lock().known.is_empty() && tokens.table.lock().due.is_empty());
    }

    #[test]
    fn only_a_token_that_was_given_is_one() {
        let (tokens, now) = (SimpleTokens::new(TTL), start());
        tokens.assign("alice", "abc", 7, now);
        tokens.assign("eve", "", 8, now);
        for (token, found) in [
            ("abc.8", Found::Nobody { index: 8 }),
            ("abd.7", Found::Nobody { index: 7 }),
            (".8", Found::Nobody { index: 8 }),
            (".7", Found::Nobody { index: 7 }),
            ("abc", Found::Malformed),
            ("abc.", Found::Malformed),
            ("abc.+7", Found::Malformed),
            ("abc.7.7", Found::Malformed),
            ("abc.99999999999999999999", Found::Malformed),
            ("abc.18446744073709551615", Found::Nobody { index: u64::MAX }),
            ("", Found::Malformed),
        ] {
            assert_eq!(tokens.find(token, now), found, "{token:?}");
        }
    }

    #[test]
    fn the_tokens_of_a_user_go_together() {
        let (tokens, now) = (SimpleTokens::new(TTL), start());
        for (name, prefix) in [("alice", "a"), ("bob", "b"), ("alice", "c")] {
            tokens.assign(name, prefix, 7, now);
        }
        tokens.revoke("alice");
        assert_eq!([tokens.find("a.7", now), tokens.find("c.7", now)], [const { Found::Nobody { index: 7 } }; 2]);
        assert_eq!(tokens.find("b.7", now), user("bob"));
        tokens.clear();
        assert_eq!(tokens.find("b.7", now), Found::Nobody { index: 7 });
    }

    #[test]
    fn a_flood_of_tokens_pushes_the_oldest_out() {
        let (tokens, now) = (SimpleTokens::new(TTL), start());
        for n in 0..TOKENS_MAX as u64 + 10 {
            tokens.assign("alice", &format!("p{n}"), n, now);
        }
        assert_eq!(tokens.table.lock().known.len(), TOKENS_MAX);
        assert_eq!(tokens.find("p9.9", now), Found::Nobody { index: 9 });
        assert_eq!(tokens.find("p10.10", now), user("alice"));
    }

    #[test]
    fn prefixes_are_letters_and_differ() {
        let (one, two) = (new_prefix(), new_prefix());
        assert!(one.len() == LETTERS && one.bytes().all(|byte| byte.is_ascii_alphabetic()) && one != two);
    }
}

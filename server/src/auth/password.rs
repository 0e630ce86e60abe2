//! bcrypt, which is slow on purpose, and so on threads of its own; and who may have it tried.

use std::{hash::RandomState, net::IpAddr, sync::Arc, time::Instant};

use base64::{
    Engine as _, alphabet,
    engine::{GeneralPurpose, GeneralPurposeConfig},
};
use bcrypt::Version;
use bytes::Bytes;
use forebay_policies::guesses::Guesses;
use forebay_proto::authpb::User;
use parking_lot::Mutex;

use super::turns::Turns;
use crate::raft::Refused;

/// What a password costs that an entry of etcd 3.4 brought in clear.
const ENTRY_COST: u32 = 10;
/// An address may be that of a gateway, which holds its own clients back.
const CLIENTS: u64 = 5;
/// The most that bcrypt looks at.
const BYTES_MAX: usize = 72;

/// Go's reading of base64: strict about padding, not about the bits that it hides.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// The hash that an entry brings is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecodable;

/// A password is longer than bcrypt can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bcrypt: password length exceeds 72 bytes")]
pub struct TooLong;

/// The hash that an entry wants kept. One of etcd before 3.5 has the password itself; members that apply it come to
/// different hashes of the same password.
pub fn of_entry(password: &str, hashed: &str) -> Result<Bytes, Undecodable> {
    if !password.is_empty() && hashed.is_empty() {
        return hash(password, ENTRY_COST).map(Bytes::from).map_err(|TooLong| Undecodable);
    }
    let lines: String = hashed.chars().filter(|char| !matches!(char, '\r' | '\n')).collect();
    BASE64.decode(lines).map(Bytes::from).map_err(|_| Undecodable)
}

/// A hash as an entry carries it.
pub fn to_entry(hash: &str) -> String {
    BASE64.encode(hash)
}

/// Whether bcrypt takes a password. It costs nothing to ask.
pub fn check_length(password: &str) -> Result<(), TooLong> {
    if password.len() > BYTES_MAX { Err(TooLong) } else { Ok(()) }
}

/// Hashes a password as Go does.
fn hash(password: &str, cost: u32) -> Result<String, TooLong> {
    check_length(password)?;
    let parts = bcrypt::hash_with_result(password, cost).expect("the cost was checked and there is randomness");
    Ok(parts.format_for_version(Version::TwoA))
}

/// Whether this is the user's password. A user who is not there takes as long.
fn verify(user: Option<&User>, password: &str, cost: u32) -> bool {
    let kept = user.and_then(|user| str::from_utf8(&user.password).ok());
    match kept {
        // What is no hash of bcrypt is nobody's password.
        Some(hash) => bcrypt::verify(password, hash).unwrap_or(false),
        None => {
            let _ = bcrypt::hash_with_salt(password, cost, [0; 16]);
            false
        }
    }
}

/// Passwords, tried and hashed on threads, and those who guessed wrongly.
#[derive(Debug)]
pub struct Passwords {
    turns: Turns,
    guesses: Arc<Mutex<Guesses>>,
    cost: u32,
}

impl Passwords {
    /// `cost` is bcrypt's, 4 to 31; each step doubles the time.
    pub fn new(cost: u32) -> Passwords {
        let guesses = Guesses::new(RandomState::new(), Instant::now(), CLIENTS);
        Passwords { turns: Turns::default(), guesses: Arc::new(Mutex::new(guesses)), cost }
    }

    /// Hashes a password that was found short enough, for this user.
    pub async fn hash(&self, user: &str, password: String) -> Result<String, Refused> {
        let cost = self.cost;
        self.turns.run(user, move || hash(&password, cost).expect("the length was checked")).await
    }

    /// Whether somebody at this address may try to be this user now. It costs nothing to ask.
    pub fn may_try(&self, address: IpAddr, name: &str) -> Result<(), Refused> {
        may_try(&self.guesses, address, name)
    }

    /// Whether this is the user's password; `user` is what is known of `name`.
    pub async fn verify(
        &self,
        address: IpAddr,
        name: &str,
        user: Option<User>,
        password: String,
    ) -> Result<bool, Refused> {
        let (cost, guesses, tried) = (self.cost, Arc::clone(&self.guesses), name.to_owned());
        let work = move || {
            // Those who waited in front of this one may have guessed meanwhile.
            may_try(&guesses, address, &tried)?;
            let is_right = verify(user.as_ref(), &password, cost);
            if !is_right {
                guesses.lock().failed(Instant::now(), address, tried.as_bytes());
            }
            Ok(is_right)
        };
        self.turns.run(name, work).await?
    }
}

fn may_try(guesses: &Mutex<Guesses>, address: IpAddr, name: &str) -> Result<(), Refused> {
    match guesses.lock().wait(Instant::now(), address, name.as_bytes()).is_zero() {
        true => Ok(()),
        false => Err(Refused::TooManyRequests),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: u32 = 4;

    fn user(hash: &str) -> User {
        User { name: "u".into(), password: hash.to_owned().into(), ..Default::default() }
    }

    #[test]
    fn a_hash_of_go_is_verified_and_ours_has_its_form() {
        // Written by etcd 3.7 for the password `toor`.
        let theirs = user("$2a$10$QsJVpWzCi.MXVHWMXWfaFO1OszUV1MTVA5oPFmo5k4ch1jIm1rgdW");
        assert!(verify(Some(&theirs), "toor", CHEAP) && !verify(Some(&theirs), "root", CHEAP));
        let ours = hash("toor", CHEAP).unwrap();
        assert!(ours.starts_with("$2a$04$") && verify(Some(&user(&ours)), "toor", CHEAP), "{ours}");
        assert!(!verify(None, "toor", CHEAP) && !verify(Some(&user("")), "", CHEAP));
    }

    #[test]
    fn what_bcrypt_cannot_tell_apart_is_refused_and_an_empty_password_is_not() {
        assert_eq!(hash(&"x".repeat(73), CHEAP), Err(TooLong));
        let longest = "x".repeat(72);
        let kept = user(&hash(&longest, CHEAP).unwrap());
        assert!(verify(Some(&kept), &longest, CHEAP) && !verify(Some(&kept), &longest[1..], CHEAP));
        assert!(verify(Some(&user(&hash("", CHEAP).unwrap())), "", CHEAP));
    }

    #[test]
    fn an_entry_brings_a_hash_or_the_password_of_old() {
        assert_eq!(of_entry("", &to_entry("a hash")), Ok("a hash".into()));
        assert_eq!(of_entry("ignored", "YWJj\nZA=="), Ok("abcd".into()));
        assert_eq!(of_entry("", ""), Ok(Bytes::new()));
        assert_eq!(of_entry("", "not base64"), Err(Undecodable));
        assert_eq!(of_entry("", "YWJj\tZA=="), Err(Undecodable));
        let hashed = of_entry("secret", "").unwrap();
        assert!(bcrypt::verify("secret", str::from_utf8(&hashed).unwrap()).unwrap());
        assert_eq!(of_entry(&"x".repeat(73), ""), Err(Undecodable));
    }

    #[tokio::test]
    async fn who_guesses_is_held_back_however_many_try_at_once() {
        let (here, elsewhere) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let passwords = Passwords::new(CHEAP);
        let kept = user(&hash("right", CHEAP).unwrap());
        let attempt = |at, password: &str| passwords.verify(at, "u", Some(kept.clone()), password.to_owned());
        let right = futures::future::join_all((0..100).map(|_| attempt(here, "right"))).await;
        assert!(right.iter().all(|answer| *answer == Ok(true)), "who knows the password may try at any rate");
        let began = Instant::now();
        let wrong = futures::future::join_all((0..100).map(|_| attempt(here, "wrong"))).await;
        let tried = wrong.iter().filter(|answer| **answer == Ok(false)).count();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        // Fifty, five for each second that it took, and one for each thread.
        let most = 50 + 5 * (began.elapsed().as_secs() as usize + 1) + threads;
        assert!((50..=most).contains(&tried), "{tried} guesses were tried, and not {most}");
        assert_eq!(attempt(elsewhere, "right").await, Ok(true));
    }
}

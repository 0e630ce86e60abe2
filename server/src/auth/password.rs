//! bcrypt, which is slow on purpose, and so on threads of its own.

use std::sync::{
    Arc, OnceLock,
    mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
};

use base64::{
    Engine as _, alphabet,
    engine::{GeneralPurpose, GeneralPurposeConfig},
};
use bcrypt::Version;
use bytes::Bytes;
use forebay_proto::authpb::User;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::raft::Refused;

/// Passwords that wait for a thread. At the usual cost a thread does some twenty a second, so more than these would
/// wait longer than a request does.
const WAITING_MAX: usize = 256;
/// What a password costs that an entry of etcd 3.4 brought in clear.
const ENTRY_COST: u32 = 10;
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

type Job = Box<dyn FnOnce() + Send>;

/// The threads, and who waits for them. They begin with the first password and end with the value.
#[derive(Debug)]
pub struct Passwords {
    jobs: OnceLock<SyncSender<Job>>,
    cost: u32,
}

impl Passwords {
    /// `cost` is bcrypt's, 4 to 31; each step doubles the time.
    pub fn new(cost: u32) -> Passwords {
        Passwords { jobs: OnceLock::new(), cost }
    }

    /// Hashes a password that was found short enough.
    pub async fn hash(&self, password: String) -> Result<String, Refused> {
        let cost = self.cost;
        self.run(move || hash(&password, cost).expect("the length was checked")).await
    }

    /// Whether this is the user's password.
    pub async fn verify(&self, user: Option<User>, password: String) -> Result<bool, Refused> {
        let cost = self.cost;
        self.run(move || verify(user.as_ref(), &password, cost)).await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
        let (reply, result) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Whoever has gone meanwhile costs nothing more.
            if !reply.is_closed() {
                let _ = reply.send(work());
            }
        });
        self.jobs.get_or_init(start_threads).try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Refused::TooManyRequests,
            TrySendError::Disconnected(_) => Refused::Stopped,
        })?;
        result.await.map_err(|_| Refused::Stopped)
    }
}

/// Half as many threads as there are cores.
fn start_threads() -> SyncSender<Job> {
    let (jobs, waiting) = sync_channel(WAITING_MAX);
    let waiting = Arc::new(Mutex::new(waiting));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for _ in 0..cores.div_ceil(2) {
        let waiting = Arc::clone(&waiting);
        let run = move || work_off(&waiting);
        std::thread::Builder::new().name("passwords".into()).spawn(run).expect("a thread can be started");
    }
    jobs
}

fn work_off(waiting: &Mutex<Receiver<Job>>) {
    loop {
        let next = waiting.lock().recv();
        match next {
            Ok(job) => job(),
            Err(_) => return,
        }
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
    async fn whoever_finds_too_many_waiting_is_refused() {
        let passwords = Passwords::new(CHEAP);
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let mut waiting = Vec::new();
        let refused = loop {
            let held = Arc::clone(&held);
            let mut asked = Box::pin(passwords.run(move || held.lock().recv().is_ok()));
            match futures::poll!(&mut asked) {
                std::task::Poll::Ready(answer) => break answer,
                std::task::Poll::Pending => waiting.push(asked),
            }
        };
        assert_eq!(refused, Err(Refused::TooManyRequests));
        assert!(waiting.len() >= WAITING_MAX);
        drop(hold);
        futures::future::join_all(waiting).await.into_iter().for_each(|answer| assert_eq!(answer, Ok(false)));
        assert!(passwords.hash("again".into()).await.is_ok());
    }
}

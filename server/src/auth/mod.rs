//! Who asks, and what they may do.
//!
//! [`Store`] is what all members agree on; apply alone changes it. [`Tokens`] are how a client shows who it is, which
//! each member knows for itself. [`Rights`] judges requests: the same for what apply carries out and for what a member
//! answers alone. [`Auth`] holds them together.

mod keys;
mod password;
mod rights;
mod store;
mod tokens;
mod turns;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Instant, SystemTime},
};

use forebay_edge::tls::Tls;
use forebay_proto::{Error, etcdserverpb::RequestHeader};
use forebay_storage::schema;
use http::{Extensions, HeaderMap};
use parking_lot::RwLock;
use tokio::sync::watch;

pub use keys::{Granted, Keys};
pub use password::{Passwords, check_length, to_entry};
pub use rights::{Rights, watched};
pub use store::{ROOT, Store};
pub use tokens::{Found, JwtError, JwtOptions, TokenKind, Tokens, new_prefix};

/// Who asks, and as of which auth revision that is known. Nobody has neither name nor revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    user: String,
    revision: u64,
}

impl Caller {
    /// A user.
    pub fn new(user: impl Into<String>, revision: u64) -> Caller {
        Caller { user: user.into(), revision }
    }

    /// Somebody who did not say who they are: a client without a token, or a member itself.
    pub fn nobody() -> Caller {
        Caller::default()
    }

    /// Whoever proposed an entry.
    pub fn of_entry(header: Option<&RequestHeader>) -> Caller {
        header.map_or_else(Caller::nobody, |header| Caller::new(header.username.clone(), header.auth_revision))
    }

    /// The header under which an entry goes into the log.
    pub fn header(&self, id: u64) -> RequestHeader {
        RequestHeader { id, username: self.user.clone(), auth_revision: self.revision }
    }

    /// The name, empty for nobody.
    pub fn user(&self) -> &str {
        &self.user
    }
}

/// What a request shows of its caller, not yet believed.
#[derive(Clone, Default)]
pub struct Credentials {
    token: Option<Box<str>>,
    /// Of a verified certificate.
    common_name: Option<Box<str>>,
}

/// Set by the JSON API. The certificate of its caller, or of who passes requests on, is not the user's.
const FROM_JSON: &str = "grpcgateway-accept";

impl Credentials {
    /// Reads a request's head.
    pub fn of(headers: &HeaderMap, extensions: &Extensions) -> Credentials {
        let token = headers.get("token").or_else(|| headers.get("authorization"));
        let tls = extensions.get::<Tls>().filter(|_| !headers.contains_key(FROM_JSON));
        Credentials {
            // Bytes that are no text are no token either, but somebody did try to show one.
            token: token.map(|token| {
                let text = String::from_utf8_lossy(token.as_bytes());
                text.strip_prefix("Bearer ").unwrap_or(&text).into()
            }),
            common_name: tls.and_then(|tls| tls.common_name.as_deref()).map(Box::from),
        }
    }

    /// What they are, for the log.
    pub fn kind(&self) -> &'static str {
        match (&self.token, &self.common_name) {
            (Some(_), _) => "token",
            (None, Some(_)) => "certificate",
            (None, None) => "nothing",
        }
    }
}

/// Who showed some credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identified {
    /// This one.
    As(Caller),
    /// Nobody that is known here, unless an entry says so that is not applied here yet; such a one has this index or
    /// the next.
    Later(u64),
    /// Nobody there is.
    Invalid,
}

/// Auth as a member knows it.
#[derive(Debug)]
pub struct Auth {
    store: RwLock<Store>,
    /// The same as in `store`, for requests that have nothing else to ask while auth is off.
    enabled: AtomicBool,
    tokens: Tokens,
    passwords: Passwords,
    /// Whether the common name of a certificate is a user.
    client_cert_auth: bool,
    /// The revision, for those who wait for the next.
    changed: watch::Sender<u64>,
}

impl Auth {
    /// Goes on from what a db file holds.
    pub fn new(file: schema::Auth, tokens: Tokens, passwords: Passwords, client_cert_auth: bool) -> Auth {
        let store = Store::new(file);
        Auth {
            enabled: AtomicBool::new(store.is_enabled()),
            changed: watch::Sender::new(store.revision()),
            store: RwLock::new(store),
            tokens,
            passwords,
            client_cert_auth,
        }
    }

    /// Whether auth is on.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Counts the changes of users and roles.
    pub fn revision(&self) -> u64 {
        self.store.read().revision()
    }

    /// Reads the store.
    pub fn read<T>(&self, read: impl FnOnce(&Store) -> T) -> T {
        read(&self.store.read())
    }

    /// Changes the store: apply's alone. Whoever asks from now on is judged by the new state.
    pub fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.store.write();
        let was_enabled = store.is_enabled();
        let changed = change(&mut store);
        let (is_enabled, revision) = (store.is_enabled(), store.revision());
        self.enabled.store(is_enabled, Ordering::Release);
        drop(store);
        if was_enabled && !is_enabled {
            self.tokens.clear();
        }
        // That auth is on now is a change too, although it has no revision of its own.
        self.changed.send_replace(revision);
        changed
    }

    /// Goes on from what a received db file holds. Who logged in meanwhile is not in it, and has to do so again.
    pub fn restore(&self, file: schema::Auth) {
        self.change(|store| *store = Store::new(file));
        self.tokens.clear();
    }

    /// Resolves for every change of users, roles, or whether auth is on.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The tokens that this member gives.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The threads that look at passwords.
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// Judges a caller; everybody may do everything while auth is off.
    pub fn judge(&self, caller: &Caller, judge: impl FnOnce(&Rights<'_>) -> Result<(), Error>) -> Result<(), Error> {
        if !self.is_enabled() {
            return Ok(());
        }
        let store = self.store.read();
        Rights::of(&store, caller).map_or(Ok(()), |rights| judge(&rights))
    }

    /// Refuses what was read while users or roles changed: the caller might not see it any more.
    pub fn confirm(&self, caller: &Caller) -> Result<(), Error> {
        if caller.revision != 0 && caller.revision != self.revision() {
            return Err(Error::AuthOldRevision);
        }
        Ok(())
    }

    /// Who this is. A token counts before a certificate.
    pub fn identify(&self, credentials: &Credentials) -> Identified {
        if !self.is_enabled() {
            return Identified::As(Caller::nobody());
        }
        match (&credentials.token, &credentials.common_name) {
            (Some(token), _) => self.by_token(token),
            (None, Some(name)) if self.client_cert_auth => Identified::As(Caller::new(&**name, self.revision())),
            (None, _) => Identified::As(Caller::nobody()),
        }
    }

    fn by_token(&self, token: &str) -> Identified {
        match &self.tokens {
            Tokens::Simple(tokens) => match tokens.find(token, Instant::now()) {
                Found::User(user) => Identified::As(Caller::new(&*user, self.revision())),
                Found::Nobody { index } => Identified::Later(index),
                Found::Malformed => Identified::Invalid,
            },
            Tokens::Jwt(tokens) => tokens.read(token, SystemTime::now()).map_or(Identified::Invalid, Identified::As),
            Tokens::None => Identified::Invalid,
        }
    }

    /// The member itself, where it does something that not everybody may.
    pub fn root(&self) -> Caller {
        match self.is_enabled() {
            true => Caller::new(ROOT, self.revision()),
            false => Caller::nobody(),
        }
    }
}

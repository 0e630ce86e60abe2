//! Who guesses passwords: row H10 of the hostile clients.

use std::{net::SocketAddr, time::Duration};

use forebay_edge::listener::Peer;
use forebay_proto::{
    Error,
    etcdserverpb::{AuthenticateRequest, AuthenticateResponse},
};
use prost::Message as _;
use tokio::time::sleep;

use crate::{
    client::{Answer, call, request},
    fake::{Act, Setup},
};

const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

async fn log_in(setup: &Setup, address: &str, user: &str) -> Answer {
    let login = AuthenticateRequest { name: user.into(), password: "guess".into() };
    let mut request = request(AUTHENTICATE, login.encode_to_vec());
    request.extensions_mut().insert(Peer { address: SocketAddr::new(address.parse().unwrap(), 1) });
    call(&setup.gateway.api(), request).await
}

fn told(error: Error) -> (i32, String) {
    (error.code() as i32, error.message().to_owned())
}

#[tokio::test(start_paused = true)]
async fn h10_who_guesses_passwords_is_held_back_before_the_upstream_has_to_look() {
    let setup = Setup::new(1).await;
    let upstream = &setup.fakes[0];
    let asked = || upstream.seen().iter().filter(|seen| seen.path == AUTHENTICATE).count();
    let mut told_wrong = 0;
    for _ in 0..100 {
        upstream.then(Act::Status(3, Error::AuthFailed.message()));
        let answer = log_in(&setup, "192.0.2.1", "root").await;
        if answer.status() == told(Error::AuthFailed) {
            told_wrong += 1;
        } else {
            assert_eq!(answer.status(), told(Error::TooManyRequests));
            assert_eq!(answer.headers["forebay-rule"], "login-guesses");
        }
    }
    assert_eq!((told_wrong, asked()), (10, 10));
    // What was prepared for guesses that did not come.
    upstream.forget();

    // The user itself elsewhere, and another user behind the same address.
    assert_eq!(log_in(&setup, "192.0.2.2", "root").await.status().0, 0);
    assert_eq!(log_in(&setup, "192.0.2.1", "alice").await.status().0, 0);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(log_in(&setup, "192.0.2.1", "root").await.status().0, 0, "one more, a second later");
}

#[tokio::test(start_paused = true)]
async fn h10_guesses_that_come_at_once_are_not_all_tried() {
    let setup = Setup::new(1).await;
    let upstream = &setup.fakes[0];
    for _ in 0..100 {
        upstream.then(Act::Status(3, Error::AuthFailed.message()));
    }
    let guesses = (0..100).map(|_| log_in(&setup, "192.0.2.1", "root"));
    let answers = futures::future::join_all(guesses).await;
    let told_wrong = answers.iter().filter(|answer| answer.status() == told(Error::AuthFailed)).count();
    assert!((10..=25).contains(&told_wrong), "{told_wrong} guesses were tried");
    let refused = answers.iter().filter(|answer| answer.status() == told(Error::TooManyRequests)).count();
    assert_eq!(told_wrong + refused, 100);
}

#[tokio::test(start_paused = true)]
async fn h10_logins_that_succeed_and_other_failures_are_not_counted() {
    let setup = Setup::new(1).await;
    for act in [Act::Answer("\u{12}\u{1}t"), Act::Status(14, "etcdserver: request timed out"), Act::Status(9, "x")] {
        for _ in 0..30 {
            setup.fakes[0].then(act.clone());
            assert_ne!(log_in(&setup, "192.0.2.1", "root").await.status(), told(Error::TooManyRequests), "{act:?}");
        }
    }
    let token = AuthenticateResponse { token: "t".into(), ..AuthenticateResponse::default() };
    assert_eq!(token.encode_to_vec(), b"\x12\x01t", "what the upstream was made to say is a token");
}

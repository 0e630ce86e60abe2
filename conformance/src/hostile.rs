//! What a hostile client does to make a member stall, grow, end or tell, tried against a target of any kind.
//!
//! The rows are those of the table in `THREAT_MODEL.md`. As with the [advisories](crate::advisories), each is tried on
//! etcd 3.4.23 too: where it works there, the attempt is known to be one; where it does not, the normal client that is
//! served beside is the control.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use forebay_loadtest::{
    abuse::{self, Flood, frames},
    client,
};
use forebay_proto::etcdserverpb::{
    self as pb, auth_client::AuthClient, kv_client::KvClient, maintenance_client::MaintenanceClient, request_op,
    watch_client::WatchClient, watch_request::RequestUnion,
};
use futures::{
    StreamExt as _,
    future::{BoxFuture, join_all},
};
use prost::Message as _;
use tokio::{io::AsyncWriteExt as _, time};
use tonic::{Request, Status, client::Grpc, transport::Channel};

use crate::{
    http::Call,
    peers::Release,
    session,
    target::{Kind, ROOT_PASSWORD, Target},
};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(15);
/// How long a normal client waits for an answer at most: a few milliseconds, on a machine that has nothing else to do.
const BEARABLE: Duration = Duration::from_secs(5);
const MIB: usize = 1 << 20;

/// One thing that a hostile client does.
pub struct Attempt {
    /// The row of the table.
    pub row: &'static str,
    /// What is tried.
    pub about: &'static str,
    /// Whether it works on etcd 3.4.23.
    pub works_on_3_4: bool,
    /// Whether it worked.
    pub run: for<'a> fn(&'a mut Scene) -> BoxFuture<'a, anyhow::Result<bool>>,
}

/// Everything that is tried, in the order in which it is: the last ones leave auth on, and the very last ends a member.
pub const ATTEMPTS: &[Attempt] = &[
    Attempt {
        row: "H2",
        about: "settings without end",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.floods(Flood::Settings)),
    },
    Attempt {
        row: "H2",
        about: "window updates without end",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.floods(Flood::WindowUpdates)),
    },
    Attempt {
        row: "H2",
        about: "priorities without end",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.floods(Flood::Priorities)),
    },
    Attempt {
        row: "H2",
        about: "empty data without end",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.floods(Flood::EmptyData)),
    },
    Attempt {
        row: "H2",
        about: "a head without end",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.floods(Flood::Continuations)),
    },
    Attempt {
        row: "H2",
        about: "pings without end",
        works_on_3_4: false,
        run: |scene| Box::pin(scene.floods(Flood::Pings)),
    },
    Attempt {
        row: "H3",
        about: "a path without its slash is the method's",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.calls_by_hand("etcdserverpb.KV/Range", 0)),
    },
    Attempt {
        row: "H3",
        about: "a path with two slashes is the method's",
        works_on_3_4: false,
        run: |scene| Box::pin(scene.calls_by_hand("//etcdserverpb.KV/Range", 0)),
    },
    Attempt {
        row: "H3",
        about: "a head of a mebibyte",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.calls_by_hand("/etcdserverpb.KV/Range", MIB)),
    },
    Attempt {
        row: "H5",
        about: "a request in JSON that is too large is held whole before it is refused",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.posts_much()),
    },
    Attempt {
        row: "H6",
        about: "more operations than a txn may have, in its txns",
        works_on_3_4: false,
        run: |scene| Box::pin(scene.hides_operations()),
    },
    Attempt {
        row: "H7",
        about: "some kilobytes of JSON within JSON take a quarter of a second of CPU time",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.posts_deep()),
    },
    Attempt {
        row: "H9",
        about: "thousands of watches make a put wait",
        works_on_3_4: false,
        run: |scene| Box::pin(scene.watches_without_end()),
    },
    Attempt {
        row: "H8",
        about: "ranges that nobody reads take a quarter of a gibibyte",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.lists_without_reading()),
    },
    Attempt {
        row: "H11",
        about: "a form of a page of another origin writes",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.posts_a_form()),
    },
    Attempt {
        row: "H12",
        about: "a name begins a line of the log",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.forges_a_line()),
    },
    Attempt {
        row: "H13",
        about: "a line of the metrics for each thing that a client says",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.says_much()),
    },
    Attempt {
        row: "H14",
        about: "a token or a password in the log",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.finds_a_secret()),
    },
    Attempt {
        row: "H10",
        about: "a hundred guesses at once are all tried",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.guesses()),
    },
    Attempt {
        row: "H6",
        about: "an alarm of an unknown action ends the member",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.raises_nonsense()),
    },
];

/// A target, and what its clients know.
pub struct Scene {
    target: Target,
    channel: Channel,
    /// Once auth is on.
    root: Option<String>,
}

/// An origin that is let in; another is not.
const ORIGIN: &str = "https://console.example:443";

impl Scene {
    /// Sets it on a fresh target that has what it can have against web pages, and logs all it can.
    async fn set(kind: Kind) -> anyhow::Result<Scene> {
        let mut args = vec!["--cors", ORIGIN, "--host-whitelist", "127.0.0.1", "--bcrypt-cost", "4"];
        match kind.release() {
            // Its logger of old, which is what it has unless it is told otherwise.
            Some(Release::V3_4) => args.extend(["--logger", "capnslog", "--debug"]),
            _ => args.extend(["--log-level", "debug"]),
        }
        let target = Target::start(kind, &args).await?;
        let channel = session::connect(&target).await?;
        Ok(Scene { target, channel, root: None })
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
    }

    /// A request in the operator's name.
    fn of<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.set_timeout(LIMIT);
        if let Some(token) = &self.root {
            request.metadata_mut().insert("token", token.parse().expect("a token is ASCII"));
        }
        request
    }

    /// A normal client; how long it waited.
    async fn is_served(&self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        self.kv().put(self.of(put("normal", 10))).await.context("a normal client's put")?;
        Ok(start.elapsed())
    }

    /// Whether somebody who floods a connection is answered on it afterwards.
    async fn floods(&self, flood: Flood) -> anyhow::Result<bool> {
        let target = client::Target::at(self.target.client);
        time::timeout(LIMIT, abuse::is_borne(&target, flood, 200_000))
            .await
            .context("the connection neither ends nor goes on")?
    }

    /// Whether a range with so long a head is answered.
    async fn calls_by_hand(&self, path: &str, head: usize) -> anyhow::Result<bool> {
        let stream = client::Target::at(self.target.client).dial_ready().await?;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut block = frames::call(path);
        for n in 0..head / 100 {
            // A name of six letters and a value of a hundred, kept in no table.
            block.extend(format!("\0\x06x{n:05}\x64{:100}", "").into_bytes());
        }
        let mut pieces = block.chunks(16_000).peekable();
        let first = pieces.next().context("a head is not empty")?;
        let end = |is_last: bool| if is_last { frames::END_HEADERS } else { 0 };
        let mut call = frames::preface();
        call.extend(frames::frame(frames::HEADERS, end(pieces.peek().is_none()), 1, first));
        while let Some(piece) = pieces.next() {
            call.extend(frames::frame(frames::CONTINUATION, end(pieces.peek().is_none()), 1, piece));
        }
        let range = pb::RangeRequest { key: "normal".into(), ..Default::default() }.encode_to_vec();
        let len = u32::try_from(range.len())?.to_be_bytes();
        call.extend(frames::frame(frames::DATA, frames::END_STREAM, 1, &[&[0], &len[..], &range].concat()));
        // Who has had enough ends the connection before it has read all of it.
        let sent = async { writer.write_all(&call).await.is_ok() };
        let answered = async {
            while let Some(frame) = frames::read(&mut reader).await {
                let ends = frame.kind == frames::RST_STREAM || frame.flags & frames::END_STREAM != 0;
                if frame.stream == 1 && (frame.kind == frames::DATA || ends) {
                    return frame.kind == frames::DATA;
                }
            }
            false
        };
        let both = futures::future::join(sent, answered);
        Ok(time::timeout(LIMIT, both).await.context("neither an answer nor an end")?.1)
    }

    /// By how much the memory grows while something is done, at most.
    async fn growth<T>(&self, meanwhile: impl Future<Output = T>) -> anyhow::Result<(u64, T)> {
        let before = self.target.rss()?;
        let mut most = before;
        let look = async {
            loop {
                most = most.max(self.target.rss().unwrap_or_default());
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        let done = tokio::select! {
            never = look => never,
            done = meanwhile => done,
        };
        Ok((most - before, done))
    }

    async fn posts_much(&self) -> anyhow::Result<bool> {
        const LEN: usize = 64 * MIB;
        let body = [br#"{"key":"YQ==","value":""#.as_slice(), &vec![b'Q'; LEN], br#""}"#].concat();
        let post = Call::post("/v3/kv/put", body);
        let (growth, _refused) = self.growth(post.send(self.target.client)).await?;
        Ok(growth > LEN as u64)
    }

    async fn hides_operations(&self) -> anyhow::Result<bool> {
        let op = |request| pb::RequestOp { request: Some(request) };
        let range =
            || op(request_op::Request::RequestRange(pb::RangeRequest { key: "a".into(), ..Default::default() }));
        let inner = || pb::TxnRequest { success: (0..128).map(|_| range()).collect(), ..Default::default() };
        let inner = || op(request_op::Request::RequestTxn(inner()));
        let outer = pb::TxnRequest { success: (0..128).map(|_| inner()).collect(), ..Default::default() };
        refused_with(self.kv().txn(self.of(outer)).await, "etcdserver: too many operations in txn request")
    }

    async fn posts_deep(&self) -> anyhow::Result<bool> {
        const DEPTH: usize = 2_000;
        let body = [r#"{"success":[{"requestTxn":"#.repeat(DEPTH), "{}".to_owned(), "}]}".repeat(DEPTH)].concat();
        let before = self.target.cpu()?;
        Call::post("/v3/kv/txn", body).send(self.target.client).await?;
        Ok(self.target.cpu()? - before > Duration::from_millis(250))
    }

    async fn lists_without_reading(&self) -> anyhow::Result<bool> {
        for n in 0..32 {
            self.kv().put(self.of(put(&format!("big/{n}"), MIB))).await?;
        }
        let path = tonic::codegen::http::uri::PathAndQuery::from_static("/etcdserverpb.KV/Range");
        let all = pb::RangeRequest { key: "big/".into(), range_end: "big0".into(), ..Default::default() };
        let channel = session::connect(&self.target).await?;
        let lists = (0..64).map(|_| async {
            let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
            grpc.ready().await.ok()?;
            let codec = tonic_prost::ProstCodec::<pb::RangeRequest, pb::RangeResponse>::default();
            grpc.server_streaming(self.of(all.clone()), path.clone(), codec).await.ok()
        });
        let held = async {
            let held = time::timeout(Duration::from_secs(2), join_all(lists)).await;
            time::sleep(Duration::from_millis(500)).await;
            drop(held);
        };
        let (growth, ()) = self.growth(held).await?;
        Ok(growth > 256 << 20)
    }

    async fn watches_without_end(&self) -> anyhow::Result<bool> {
        const WATCHES: usize = 2_000;
        let create = pb::WatchCreateRequest { key: "normal".into(), ..Default::default() };
        let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let creates = futures::stream::repeat(create).take(WATCHES).chain(futures::stream::pending());
        let channel = session::connect(&self.target).await?;
        let mut watching = WatchClient::new(channel).watch(creates).await?.into_inner();
        for _ in 0..WATCHES {
            time::timeout(LIMIT, watching.message()).await.context("a watch is not created")??;
        }
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            longest = longest.max(self.is_served().await?);
        }
        Ok(longest > BEARABLE)
    }

    async fn posts_a_form(&self) -> anyhow::Result<bool> {
        let form = Call::post("/v3/kv/put", r#"{"key":"YQ==","value":"YQ=="}"#);
        // What a page can have a browser send without asking the server first.
        let form = form.header("Content-Type", "text/plain").header("Origin", "https://page.example");
        match form.send(self.target.client).await?.status {
            200 => Ok(true),
            403 => Ok(false),
            status => anyhow::bail!("a form is answered with {status}"),
        }
    }

    async fn forges_a_line(&self) -> anyhow::Result<bool> {
        const LINE: &str = "2026-01-01 00:00:00.000000 I | auth: forged";
        let name = format!("mallory\n{LINE}");
        let add = pb::AuthUserAddRequest { name, password: "x".to_owned(), ..Default::default() };
        AuthClient::new(self.channel.clone()).user_add(self.of(add)).await?;
        Ok(self.target.logs().lines().any(|line| line.starts_with(LINE)))
    }

    async fn says_much(&self) -> anyhow::Result<bool> {
        const SAID: usize = 300;
        let lines = async || {
            let page = Call::get("/metrics").send(self.target.client).await?;
            anyhow::Ok(page.body.iter().filter(|byte| **byte == b'\n').count())
        };
        self.is_served().await?;
        let before = lines().await?;
        for n in 0..SAID {
            let mut request = self.of(pb::RangeRequest { key: format!("said/{n}").into(), ..Default::default() });
            request.metadata_mut().insert("client-api-version", format!("3.9.{n}").parse()?);
            self.kv().range(request).await?;
        }
        Ok(lines().await? > before + SAID / 2)
    }

    /// Turns auth on, and leaves it so.
    async fn finds_a_secret(&mut self) -> anyhow::Result<bool> {
        let mut auth = AuthClient::new(self.channel.clone());
        let (root, password) = ("root".to_owned(), ROOT_PASSWORD.to_owned());
        let add = pb::AuthUserAddRequest { name: root.clone(), password: password.clone(), ..Default::default() };
        auth.user_add(add).await?;
        auth.role_add(pb::AuthRoleAddRequest { name: root.clone() }).await?;
        auth.user_grant_role(pb::AuthUserGrantRoleRequest { user: root.clone(), role: root.clone() }).await?;
        auth.auth_enable(pb::AuthEnableRequest {}).await?;
        let token = auth.authenticate(pb::AuthenticateRequest { name: root, password }).await?.into_inner().token;
        self.root = Some(token.clone());
        self.is_served().await?;
        let logs = self.target.logs();
        Ok([token.as_str(), ROOT_PASSWORD].iter().any(|secret| logs.contains(secret)))
    }

    async fn guesses(&self) -> anyhow::Result<bool> {
        let guesses = (0..100).map(|n| {
            let guess = pb::AuthenticateRequest { name: "root".to_owned(), password: format!("guess {n}") };
            let mut auth = AuthClient::new(self.channel.clone());
            async move { auth.authenticate(guess).await }
        });
        let mut tried = 0;
        for answer in join_all(guesses).await {
            match answer {
                Err(status) if status.message().contains("authentication failed") => tried += 1,
                Err(status) if status.message().contains("too many") => {}
                other => anyhow::bail!("a guess is answered with {other:?}"),
            }
        }
        ensure!(tried > 0, "no guess was tried");
        Ok(tried == 100)
    }

    async fn raises_nonsense(&self) -> anyhow::Result<bool> {
        let alarm = pb::AlarmRequest { action: 9, member_id: 0, alarm: pb::AlarmType::Nospace as i32 };
        let answer = MaintenanceClient::new(self.channel.clone()).alarm(self.of(alarm)).await;
        ensure!(answer.is_err(), "an alarm of no action is answered");
        // Whoever is in front of it might go on.
        let mut direct = Call::get("/health").send(self.target.member).await;
        for _ in 0..10 {
            time::sleep(Duration::from_millis(20)).await;
            direct = Call::get("/health").send(self.target.member).await;
        }
        Ok(direct.is_err())
    }
}

fn put(key: &str, len: usize) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: Bytes::from(vec![b'v'; len]), ..Default::default() }
}

/// Whether a call went through. What fails otherwise than by this refusal is no verdict.
fn refused_with<A>(answer: Result<A, Status>, refusal: &str) -> anyhow::Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(status) if status.message() == refusal => Ok(false),
        Err(status) => Err(status.into()),
    }
}

/// Tries everything on a target, a normal client beside; the descriptions of what worked.
pub async fn tried(kind: Kind) -> anyhow::Result<Vec<String>> {
    let mut worked = Vec::new();
    let mut scene = Scene::set(kind).await?;
    for attempt in ATTEMPTS {
        let Attempt { row, about, .. } = attempt;
        let has_worked = (attempt.run)(&mut scene).await.with_context(|| format!("{row} ({about}) on {kind}"))?;
        if has_worked {
            worked.push(format!("{row}: {about}"));
            continue;
        }
        let waited = scene.is_served().await.with_context(|| format!("after {row} ({about}) on {kind}"))?;
        ensure!(waited < BEARABLE, "after {row} ({about}) on {kind}, a put took {waited:?}");
    }
    Ok(worked)
}

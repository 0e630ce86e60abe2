//! Watch calls over a mirror, and a source that does what each test says.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Buf as _;
use forebay_keyspace::{
    mirror::{Limits, Load, Mirror, Ranges},
    watch::Events,
};
use forebay_proto::{
    etcdserverpb::{WatchCancelRequest, WatchProgressRequest, WatchResponse},
    mvccpb::{Event, KeyValue},
};
use http_body_util::{BodyExt as _, StreamBody};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};

use super::*;

/// Answers when the test does.
#[derive(Default)]
struct Scripted {
    term: AtomicU64,
    admissions: Mutex<VecDeque<oneshot::Receiver<Admission>>>,
    fresh: Mutex<VecDeque<oneshot::Receiver<()>>>,
    feeds: Mutex<VecDeque<mpsc::UnboundedReceiver<Fed>>>,
    opened: Mutex<Vec<WatchCreateRequest>>,
    /// What deliveries of feeds take of.
    memory: Mutex<Memory>,
}

/// The memory of a delivery.
const DELIVERED: usize = 300 << 10;

impl Source for Scripted {
    fn header(&self) -> HeaderBase {
        HeaderBase { cluster_id: 1, member_id: 2, raft_term: self.term.load(Ordering::Relaxed) }
    }

    fn admit(&self, _: &WatchCreateRequest) -> Option<BoxFuture<'static, Admission>> {
        let admission = self.admissions.lock().pop_front()?;
        Some(admission.map(|admission| admission.expect("the test answers")).boxed())
    }

    fn fresh(&self) -> Option<BoxFuture<'static, ()>> {
        let fresh = self.fresh.lock().pop_front()?;
        Some(fresh.map(|fresh| fresh.expect("the test answers")).boxed())
    }

    fn catch_up(&self, catch_up: CatchUp) -> BoxStream<'static, (Fed, Held)> {
        self.opened.lock().push(catch_up.request);
        let feed = self.feeds.lock().pop_front().expect("the test feeds");
        let memory = self.memory.lock().clone();
        UnboundedReceiverStream::new(feed).map(move |fed| (fed, memory.try_hold(DELIVERED).unwrap())).boxed()
    }
}

impl Scripted {
    fn admission(&self) -> oneshot::Sender<Admission> {
        let (answer, admission) = oneshot::channel();
        self.admissions.lock().push_back(admission);
        answer
    }

    fn feed(&self) -> mpsc::UnboundedSender<Fed> {
        let (feed, fed) = mpsc::unbounded_channel();
        self.feeds.lock().push_back(fed);
        feed
    }
}

/// A mirror at revision 9 whose window begins there.
fn mirror() -> Mirror {
    let mut load = Load::new(Ranges::all(), 9);
    load.add(put("a", 2, 2, 9).kv.as_ref().unwrap()).unwrap();
    Mirror::new(load, Limits { bytes: 1 << 20, revisions: 100 }, 0).unwrap()
}

fn put(key: &'static str, create_revision: i64, version: i64, mod_revision: i64) -> Event {
    let kv = KeyValue { key: key.into(), create_revision, version, mod_revision, ..Default::default() };
    Event { kv: Some(kv), ..Default::default() }
}

struct Client {
    /// Until the client half-closes.
    requests: Option<mpsc::Sender<Result<Frame<Bytes>, BoxError>>>,
    body: Body,
    received: BytesMut,
}

impl Client {
    fn open(mirror: &Mirror, source: &Arc<Scripted>) -> Client {
        Client::with_memory(mirror, source, Memory::default())
    }

    fn with_memory(mirror: &Mirror, source: &Arc<Scripted>, memory: Memory) -> Client {
        let progress_interval = Duration::from_secs(600);
        let watches = Watches { hub: mirror.hub().clone(), max_message: 1 << 20, progress_interval };
        let (requests, sent) = mpsc::channel(100);
        let mut request = Request::new(Body::new(StreamBody::new(ReceiverStream::new(sent))));
        request.extensions_mut().insert(memory);
        let response = watches.serve(request, source.clone(), futures::future::pending().boxed());
        Client { requests: Some(requests), body: response.into_body(), received: BytesMut::new() }
    }

    async fn ask(&self, union: RequestUnion) {
        let frame = Frame::data(grpc::encode(&WatchRequest { request_union: Some(union) }));
        self.requests.as_ref().unwrap().send(Ok(frame)).await.unwrap();
    }

    async fn create(&self, key: &'static str, start_revision: i64) {
        let create = WatchCreateRequest { key: key.into(), start_revision, ..Default::default() };
        self.ask(RequestUnion::CreateRequest(create)).await;
    }

    /// The next message; the status if that is what comes, and "nothing" if nothing does.
    async fn next(&mut self) -> String {
        loop {
            if self.received.len() > grpc::PREFIX {
                self.received.advance(1);
                let len = self.received.get_u32() as usize;
                return show(&WatchResponse::decode(self.received.split_to(len)).unwrap());
            }
            // The clock is paused: it jumps ahead when all tasks wait.
            match tokio::time::timeout(Duration::from_secs(1), self.body.frame()).await {
                Err(_) => return "nothing".into(),
                Ok(None) => return "end".into(),
                Ok(Some(frame)) => match frame.unwrap().into_data() {
                    Ok(data) => self.received.extend_from_slice(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap();
                        return format!("status {}", trailers["grpc-status"].to_str().unwrap());
                    }
                },
            }
        }
    }
}

/// `id@revision/term`, what it says, and its events as `key@mod_revision`.
fn show(response: &WatchResponse) -> String {
    let header = response.header.as_ref().unwrap();
    let mut line = format!("{}@{}/{}", response.watch_id, header.revision, header.raft_term);
    for (set, word) in [(response.created, " created"), (response.canceled, " canceled")] {
        line.push_str(if set { word } else { "" });
    }
    if response.compact_revision > 0 {
        line.push_str(&format!(" compacted={}", response.compact_revision));
    }
    if !response.cancel_reason.is_empty() {
        line.push_str(&format!(" ({})", response.cancel_reason));
    }
    for event in &response.events {
        let kv = event.kv.as_ref().unwrap();
        line.push_str(&format!(" {}@{}", kv.key.escape_ascii(), kv.mod_revision));
    }
    line
}

#[tokio::test(start_paused = true)]
async fn b03_every_message_has_the_term_of_its_moment() {
    let (mut mirror, source) = (mirror(), Arc::new(Scripted::default()));
    let mut client = Client::open(&mirror, &source);
    client.create("a", 0).await;
    assert_eq!(client.next().await, "0@9/0 created");
    source.term.store(7, Ordering::Relaxed);
    mirror.apply(&[put("a", 2, 3, 10)]).unwrap();
    assert_eq!(client.next().await, "0@10/7 a@10");
}

#[tokio::test(start_paused = true)]
async fn b14_creates_are_answered_in_order_when_they_are_admitted_and_events_do_not_wait() {
    let (mut mirror, source) = (mirror(), Arc::new(Scripted::default()));
    let mut client = Client::open(&mirror, &source);
    client.create("a", 0).await;
    assert_eq!(client.next().await, "0@9/0 created");
    let (first, second) = (source.admission(), source.admission());
    client.create("a", 0).await;
    client.create("b", 0).await;
    client.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 0 })).await;
    second.send(Admission::Refuse("no".into())).unwrap();
    assert_eq!(client.next().await, "nothing", "the second waits for the first");
    mirror.apply(&[put("a", 2, 3, 10)]).unwrap();
    assert_eq!(client.next().await, "0@10/0 a@10");
    first.send(Admission::Serve).unwrap();
    assert_eq!(client.next().await, "1@10/0 created", "at the revision of its admission, which it need not be told of");
    assert_eq!(client.next().await, "-1@10/0 created canceled (no)");
    assert_eq!(client.next().await, "0@10/0 canceled");
    mirror.apply(&[put("a", 2, 4, 11)]).unwrap();
    assert_eq!(client.next().await, "1@11/0 a@11");
}

#[tokio::test(start_paused = true)]
async fn b12_progress_is_told_when_the_mirror_is_as_fresh_as_the_request() {
    let (mut mirror, source) = (mirror(), Arc::new(Scripted::default()));
    let mut client = Client::open(&mirror, &source);
    client.create("a", 0).await;
    client.next().await;
    let (fresh, is_fresh) = oneshot::channel();
    source.fresh.lock().push_back(is_fresh);
    client.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    assert_eq!(client.next().await, "nothing");
    mirror.advance(20).unwrap();
    fresh.send(()).unwrap();
    assert_eq!(client.next().await, "-1@20/0");
}

#[tokio::test(start_paused = true)]
async fn b24_a_client_that_half_closes_goes_on_to_be_told() {
    let (mut mirror, source) = (mirror(), Arc::new(Scripted::default()));
    let mut client = Client::open(&mirror, &source);
    client.create("a", 0).await;
    client.requests = None;
    assert_eq!(client.next().await, "0@9/0 created");
    assert_eq!(client.next().await, "nothing");
    mirror.apply(&[put("a", 2, 3, 10)]).unwrap();
    assert_eq!(client.next().await, "0@10/0 a@10");
}

#[tokio::test(start_paused = true)]
async fn b24_what_was_asked_before_the_half_close_is_answered_after_it() {
    let (mirror, source) = (mirror(), Arc::new(Scripted::default()));
    let mut client = Client::open(&mirror, &source);
    let admission = source.admission();
    client.create("a", 0).await;
    client.requests = None;
    assert_eq!(client.next().await, "nothing");
    admission.send(Admission::Serve).unwrap();
    assert_eq!(client.next().await, "0@9/0 created");
}

#[tokio::test(start_paused = true)]
async fn b21_a_start_before_the_window_is_fed_until_the_mirror_goes_on() {
    let (mut mirror, source) = (mirror(), Arc::new(Scripted::default()));
    let mut client = Client::open(&mirror, &source);
    let feed = source.feed();
    client.create("a", 3).await;
    assert_eq!(client.next().await, "0@9/0 created");
    assert_eq!(client.next().await, "nothing");
    let opened = source.opened.lock().pop().unwrap();
    assert_eq!((&opened.key[..], opened.start_revision), (&b"a"[..], 3));
    feed.send(Fed::Progress(5)).unwrap();
    feed.send(Fed::Events(Events::new(&[put("a", 2, 2, 9)]).unwrap())).unwrap();
    assert_eq!(client.next().await, "0@9/0 a@9");
    assert_eq!(client.next().await, "nothing");
    assert!(feed.is_closed(), "the upstream's watch ends when it is not needed any more");
    mirror.apply(&[put("a", 2, 3, 10)]).unwrap();
    assert_eq!(client.next().await, "0@10/0 a@10");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_watcher_drops_its_feed_though_that_is_silent() {
    let (mirror, source) = (mirror(), Arc::new(Scripted::default()));
    let mut client = Client::open(&mirror, &source);
    let feed = source.feed();
    client.create("a", 3).await;
    assert_eq!(client.next().await, "0@9/0 created");
    assert_eq!(client.next().await, "nothing");
    assert!(!feed.is_closed());
    client.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 0 })).await;
    assert_eq!(client.next().await, "0@9/0 canceled");
    assert_eq!(client.next().await, "nothing");
    assert!(feed.is_closed());
}

#[tokio::test(start_paused = true)]
async fn b22_a_feed_that_gives_up_ends_the_call_so_that_the_client_resumes() {
    let (mirror, source) = (mirror(), Arc::new(Scripted::default()));
    let mut client = Client::open(&mirror, &source);
    drop(source.feed());
    client.create("a", 3).await;
    assert_eq!(client.next().await, "0@9/0 created");
    assert_eq!(client.next().await, "status 14");
    assert_eq!(client.next().await, "end");
}

#[tokio::test(start_paused = true)]
async fn a_range_that_is_not_mirrored_is_fed_on_the_stream_of_those_that_are() {
    let (mut mirror, source) = (mirror(), Arc::new(Scripted::default()));
    let mut client = Client::open(&mirror, &source);
    let (feed, admission) = (source.feed(), source.admission());
    admission.send(Admission::Feed).unwrap();
    client.create("elsewhere", 0).await;
    client.create("a", 0).await;
    assert_eq!(client.next().await, "0@9/0 created");
    assert_eq!(client.next().await, "1@9/0 created");
    feed.send(Fed::Events(Events::new(&[put("elsewhere", 11, 1, 11)]).unwrap())).unwrap();
    assert_eq!(client.next().await, "nothing", "the mirror is not there yet");
    mirror.apply(&[put("a", 2, 3, 10)]).unwrap();
    assert_eq!(client.next().await, "1@10/0 a@10");
    mirror.advance(11).unwrap();
    assert_eq!(client.next().await, "0@11/0 elsewhere@11");
}

/// An event whose message is so long.
fn long(key: &'static str, mod_revision: i64, len: usize) -> Event {
    let mut event = put(key, 2, 3, mod_revision);
    event.kv.as_mut().unwrap().value = vec![b'v'; len].into();
    event
}

#[tokio::test(start_paused = true)]
async fn a_long_message_takes_its_memory_until_its_last_byte_is_gone() {
    const LEN: usize = 100 << 10;
    let (mut mirror, source) = (mirror(), Arc::new(Scripted::default()));
    let memory = Memory::with_budget(1 << 20);
    let mut client = Client::with_memory(&mirror, &source, memory.clone());
    client.create("a", 0).await;
    assert_eq!(client.next().await, "0@9/0 created");
    mirror.apply(&[long("a", 10, LEN)]).unwrap();
    let message = client.body.frame().await.unwrap().unwrap().into_data().unwrap();
    let last = message.slice(message.len() - 1..);
    drop(message);
    assert_eq!(client.next().await, "nothing");
    assert!(memory.taken() >= LEN, "what the connection has is not gone");
    drop(last);
    assert_eq!(memory.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_long_message_has_the_memory_that_its_own_feed_brought_and_no_others() {
    const LEN: usize = 100 << 10;
    let (mut mirror, source) = (mirror(), Arc::new(Scripted::default()));
    let memory = Memory::with_budget(4 << 20);
    *source.memory.lock() = memory.clone();
    let mut client = Client::with_memory(&mirror, &source, memory.clone());
    let (feed, admission) = (source.feed(), source.admission());
    admission.send(Admission::Feed).unwrap();
    client.create("elsewhere", 0).await;
    client.create("a", 0).await;
    assert_eq!(client.next().await, "0@9/0 created");
    assert_eq!(client.next().await, "1@9/0 created");
    feed.send(Fed::Events(Events::new(&[long("elsewhere", 11, LEN)]).unwrap())).unwrap();
    assert_eq!(client.next().await, "nothing", "the mirror is not there yet");
    assert_eq!(memory.taken(), DELIVERED);
    mirror.apply(&[long("a", 10, LEN)]).unwrap();
    let of_mirror = client.body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(memory.taken() >= DELIVERED + LEN, "what waits in a feed is not for the messages of others");
    drop(of_mirror);
    mirror.advance(11).unwrap();
    let fed = client.body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(client.next().await, "nothing");
    assert_eq!((fed.len() > LEN, memory.taken()), (true, DELIVERED), "nothing is counted twice");
    drop(fed);
    assert_eq!(memory.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn b40_a_mirror_that_begins_anew_ends_the_watches_and_the_call() {
    let (mut mirror, source) = (mirror(), Arc::new(Scripted::default()));
    let mut client = Client::open(&mirror, &source);
    client.create("a", 0).await;
    assert_eq!(client.next().await, "0@9/0 created");
    mirror.restart(Load::new(Ranges::all(), 4)).unwrap();
    assert_eq!(client.next().await, "0@0/0 canceled compacted=4");
    assert_eq!(client.next().await, "status 14");
}

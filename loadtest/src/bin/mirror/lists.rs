//! Lists of everything. The answers are counted as bytes and not decoded: decoding them would cost this process, which
//! shares the processors, more than they cost the gateway.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use forebay_loadtest::{
    client::Connection,
    work::{Counted, Keys},
};
use forebay_proto::etcdserverpb::RangeRequest;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tokio::task::JoinSet;
use tower::{Service as _, ServiceExt as _};

use crate::{
    Options,
    fronts::Fronts,
    report::{Goal, Row, verdict},
};

const KEYS: Keys = Keys { count: 300_000, value_size: 1024 };
const CLIENTS: usize = 10;
/// Beyond what the mirror holds.
const MEMORY_MAX: f64 = 256.0;

pub async fn run(options: &Options) -> anyhow::Result<()> {
    let fronts = Fronts::start(options, true).await?;
    KEYS.load(&fronts.direct().channels, "key/").await.context("loading")?;
    let goals = [Goal::Rate(3.0), Goal::Cpu(0.1)];
    let mut row = Row::new("full-list", &goals);
    for _ in 0..options.rounds {
        for front in &fronts.all {
            let run = all(&front.channels, options.duration());
            row.add(front.name, fronts.measured(front, run).await?);
        }
    }
    row.print();
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let mirror = mib(fronts.gateways("forebay_mirror_bytes").await?);
    for front in &fronts.all {
        println!("    {} {:.0} MiB resident at most", front.name, mib(front.process.rss_max()? as f64));
    }
    let beyond = mib(fronts.gateway().process.rss_max()? as f64) - mirror;
    verdict(&format!("MiB beyond the mirror of {mirror:.0}"), beyond, MEMORY_MAX, false);
    Ok(())
}

async fn all(channels: &[Connection], duration: Duration) -> anyhow::Result<Counted> {
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for client in 0..CLIENTS {
        let mut connection = channels[client % channels.len()].clone();
        tasks.spawn(async move {
            let mut lists = 0;
            while lists == 0 || begin.elapsed() < duration {
                list(&mut connection).await?;
                lists += 1;
            }
            anyhow::Ok(lists)
        });
    }
    let mut counted = Counted::default();
    while let Some(done) = tasks.join_next().await {
        counted.operations += done??;
    }
    counted.elapsed = begin.elapsed();
    Ok(counted)
}

async fn list(connection: &mut Connection) -> anyhow::Result<()> {
    let message = RangeRequest { key: "key/".into(), range_end: "key0".into(), ..Default::default() }.encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len())?.to_be_bytes());
    frame.extend(message);
    let request = http::Request::post("/etcdserverpb.KV/Range")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(Full::new(Bytes::from(frame))))?;
    let mut body = connection.ready().await?.call(request).await?.into_body();
    let (mut bytes, mut is_whole) = (0, false);
    while let Some(part) = body.frame().await {
        let part = part.map_err(|error| anyhow::anyhow!("the answer breaks off: {error}"))?;
        bytes += part.data_ref().map_or(0, Bytes::len) as u64;
        is_whole =
            part.trailers_ref().is_some_and(|trailers| trailers.get("grpc-status").is_some_and(|code| code == "0"));
    }
    ensure!(is_whole, "a list failed after {bytes} bytes");
    ensure!(bytes > KEYS.count * KEYS.value_size as u64, "a list has only {bytes} bytes");
    Ok(())
}

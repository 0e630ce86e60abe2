//! `forebay bench`: load on any etcd, and how long it really took.

pub mod flags;

use std::{fs, path::Path, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use forebay_edge::tls::{ClientOptions, Connector, KeyPair, Protocol, Verify};
use forebay_loadtest::{
    bench::{
        self,
        fleet::Fleet,
        report::{self, Report, TargetReport},
        view::View,
    },
    client::{Stream, Target, Tls},
    history::Setup,
};

use self::flags::{Bench, Settings};
use crate::{cli::print, flags::Problem};

/// Does what the words after `forebay bench` ask for.
pub fn run(args: &[String]) -> Result<ExitCode, (u8, Vec<Problem>)> {
    let bench = match flags::read(args).map_err(|problems| (2, problems))? {
        flags::Asked::Help => return Ok(print(&crate::help::bench())),
        flags::Asked::Run(bench) => bench,
    };
    let failed = |error: anyhow::Error| (1, vec![Problem::new(format!("{error:#}"))]);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = runtime.context("cannot start threads").and_then(|runtime| runtime.block_on(load(&bench, args)));
    ended.map_err(failed)
}

async fn load(bench: &Bench, args: &[String]) -> anyhow::Result<ExitCode> {
    let tls = tls(&bench.settings)?;
    let target = |endpoints: &Vec<String>| Target {
        endpoints: endpoints.clone(),
        tls: Some(tls.clone()),
        user: bench.user.clone(),
        dial_timeout: bench.settings.dial_timeout.to_std(),
        source: None,
    };
    let targets: Vec<Target> = bench.targets.iter().map(target).collect();
    if let Some(share) = bench.share {
        let target = targets.get(share.target).context("a share is of a target that there is")?;
        share.run(&bench.plan, target).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let fleet = (bench.processes > 1).then(|| -> anyhow::Result<Fleet> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let arguments = [&["bench".to_owned()], args].concat();
        Ok(Fleet { program, arguments, processes: bench.processes })
    });
    let fleet = fleet.transpose()?;
    let mut view = View::new(bench.settings.quiet);
    if let Some(recording) = &bench.plan.shape.recording {
        let (clients, sent) = (recording.clients, recording.times().count());
        view.say(&format!(
            "{sent} requests of {clients} clients; {} calls are left out, {} were not recorded",
            recording.left_out, recording.missed
        ));
    }
    let checked = bench.settings.check.then(|| Setup { seed: bench.plan.seed, ..Setup::default() });
    let report =
        bench::compare(&bench.plan, &targets, bench.rounds, fleet.as_ref(), checked.as_ref(), &mut view).await?;
    let printed = print(&shown(&report, &bench.settings.output)?);
    for path in &bench.settings.report {
        let form = Path::new(path).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        fs::write(path, shown(&report, form)?).with_context(|| format!("cannot write {path}"))?;
    }
    let mut all_hold = true;
    for target in &report.targets {
        all_hold &= target.is_consistent();
        for assertion in &bench.assertions {
            let (holds, said) = assertion.holds(target);
            all_hold &= holds;
            view.say(&format!("{}: {said}", target.name));
        }
    }
    Ok(if all_hold { printed } else { ExitCode::FAILURE })
}

/// The report in one of its forms.
fn shown(report: &Report, form: &str) -> anyhow::Result<String> {
    Ok(match form {
        "json" => format!("{:#}\n", report.json()),
        "html" => report::html(report),
        "hgrm" => {
            let main = report.targets.first().map(TargetReport::main_latencies);
            report::hgrm(&main.filter(|main| !main.0.is_empty()).context("nothing was answered")?)
        }
        _ => report::text(report),
    })
}

/// TLS as all connections out of here do it. Nothing is read before an endpoint needs it.
fn tls(settings: &Settings) -> anyhow::Result<Tls> {
    let verify = match settings.cacert.as_str() {
        _ if settings.insecure_skip_tls_verify => Verify::InsecureSkip,
        "" => Verify::System,
        path => Verify::Authorities(path.into()),
    };
    let identity = (!settings.cert.is_empty())
        .then(|| KeyPair { certificate: settings.cert.clone().into(), key: settings.key_file().into() });
    let options =
        ClientOptions { verify, identity, server_name: None, protocol: Protocol::default(), speaks: vec!["h2"] };
    let needed = settings.targets().iter().flatten().any(|endpoint| endpoint.starts_with("https://"));
    let connector = if needed { Some(Connector::new(options)?) } else { None };
    Ok(Arc::new(move |stream, host| {
        let connector = connector.clone();
        Box::pin(async move {
            let connector = connector.ok_or_else(|| std::io::Error::other("no endpoint has the scheme https"))?;
            Ok(Stream::new(connector.connect(stream, &host).await?))
        })
    }))
}

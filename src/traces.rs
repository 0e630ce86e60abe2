//! Takes spans to a collector, by OpenTelemetry's protocol over gRPC.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use forebay_edge::{Api, trace::Traced};
use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter},
};

use crate::{flags::tracing::TracingFlags, version::FOREBAY_VERSION};

/// How long a role that ends waits for the collector to take its last spans.
const PATIENCE: Duration = Duration::from_secs(2);

/// What traces the calls of a process, if anything does.
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Traces go where the flags say.
    pub fn start(flags: Option<&TracingFlags>) -> anyhow::Result<Traces> {
        let Some(flags) = flags else { return Ok(Traces(None)) };
        let otlp = OtlpExporter::builder().with_tonic().with_endpoint(format!("http://{}", flags.address));
        let otlp = otlp.build().context("--distributed-tracing-address")?;
        let fraction = f64::from(flags.per_million) / 1_000_000.0;
        let mut resource = Resource::builder()
            .with_service_name(flags.service_name.clone())
            .with_attribute(KeyValue::new("service.version", FOREBAY_VERSION));
        if !flags.instance_id.is_empty() {
            resource = resource.with_attribute(KeyValue::new("service.instance.id", flags.instance_id.clone()));
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Collector { otlp, is_away: AtomicBool::new(false) })
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(fraction))))
            .with_resource(resource.build())
            .build();
        Ok(Traces(Some(provider)))
    }

    /// Has the calls of an API traced; `part` names what it is of the process.
    pub fn of(&self, part: &'static str, api: Api) -> Api {
        match &self.0 {
            Some(provider) => Api::new(Traced::new(api, provider.tracer(part))),
            None => api,
        }
    }

    /// Sends what is left.
    pub async fn stop(self) {
        if let Some(provider) = self.0 {
            // A collector that is away was logged; spans are not worth holding the process up for.
            let _ = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(PATIENCE)).await;
        }
    }
}

/// The collector. One that is away costs spans and a line in the log, never a call.
#[derive(Debug)]
struct Collector {
    otlp: OtlpExporter,
    is_away: AtomicBool,
}

impl SpanExporter for Collector {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.otlp.export(batch).await;
        let was_away = self.is_away.swap(exported.is_err(), Ordering::Relaxed);
        match &exported {
            Err(error) if !was_away => tracing::warn!(%error, "the collector takes no spans"),
            Ok(()) if was_away => tracing::info!("the collector takes spans again"),
            _ => {}
        }
        exported
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.otlp.set_resource(resource);
    }
}

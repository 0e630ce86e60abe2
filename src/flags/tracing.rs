//! Where spans go, by etcd's flags.

use super::{Problem, go::quote};

/// How calls are traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracingFlags {
    /// `host:port` of a collector that takes OpenTelemetry's protocol over gRPC.
    pub address: String,
    pub service_name: String,
    pub instance_id: String,
    /// Of a million calls that come without a trace of their own, how many begin one.
    pub per_million: u32,
}

/// What may be said about it.
#[derive(Clone, Debug)]
pub struct TracingSettings {
    pub enabled: bool,
    pub address: String,
    pub service_name: String,
    pub instance_id: String,
    pub sampling_rate: i64,
}

impl TracingSettings {
    /// etcd's defaults, under the name of a service.
    pub fn of(service_name: &str) -> TracingSettings {
        TracingSettings {
            enabled: false,
            address: "localhost:4317".to_owned(),
            service_name: service_name.to_owned(),
            instance_id: String::new(),
            sampling_rate: 0,
        }
    }

    /// `None` if calls are not traced; nothing else is looked at then, as in etcd.
    pub fn validate(&self) -> Result<Option<TracingFlags>, Problem> {
        if !self.enabled {
            return Ok(None);
        }
        let wrong = |what: &str| {
            Problem::new(format!(
                "distributed tracing configurition is not valid: (tracing sampling rate must be {what})"
            ))
            .hint("--distributed-tracing-sampling-rate is of a million calls: 0 to 1000000")
        };
        let per_million = match self.sampling_rate {
            ..0 => return Err(wrong("positive")),
            1_000_001.. => return Err(wrong("less than 1000000")),
            rate => u32::try_from(rate).expect("invariant: at most a million"),
        };
        if self.address.contains("://") || !self.address.contains(':') {
            let text = format!("--distributed-tracing-address: {} is not host:port", quote(&self.address));
            return Err(Problem::new(text).hint("write localhost:4317, without a scheme"));
        }
        Ok(Some(TracingFlags {
            address: self.address.clone(),
            service_name: self.service_name.clone(),
            instance_id: self.instance_id.clone(),
            per_million,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_enabled_is_looked_at_and_the_rate_is_of_a_million() {
        let mut settings = TracingSettings { sampling_rate: 2_000_000, ..TracingSettings::of("etcd") };
        assert_eq!(settings.validate(), Ok(None));
        settings.enabled = true;
        assert!(settings.validate().expect_err("too much").text.contains("must be less than 1000000"));
        settings.sampling_rate = -1;
        assert!(settings.validate().expect_err("too little").text.contains("must be positive"));
        settings.sampling_rate = 1_000_000;
        assert_eq!(settings.validate().map(|flags| flags.map(|flags| flags.per_million)), Ok(Some(1_000_000)));
        settings.address = "http://collector:4317".to_owned();
        assert!(settings.validate().is_err());
    }
}

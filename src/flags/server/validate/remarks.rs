//! What is no problem and still worth a line in the log.

use super::{Found, MIN_PROGRESS_INTERVAL, MIN_RAFT_TIMEOUT, Said};
use crate::{
    flags::{
        Notice,
        go::Duration,
        server::{self, settings},
    },
    logging::Level,
};

const LARGEST_TRIED_QUOTA: u64 = 8 << 30;
const RECOMMENDED_REQUEST_BYTES: u64 = 10 << 20;

pub(super) fn remarks(said: &Said, found: &mut Found) {
    let s = &said.settings;
    if s.name == settings::DEFAULT_NAME {
        found.notice(
            Notice::new(
                Level::Warn,
                "it isn't recommended to use default name, please set a value for --name. Note that etcd might run \
                 into issue when multiple members have the same default name",
            )
            .with("name", &s.name),
        );
    }
    if said.given.contains("max-snapshots") {
        found.notice(Notice::new(
            Level::Warn,
            "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.",
        ));
    }
    for flag in server::flags() {
        if let Some(because) = flag.unused().filter(|_| said.given.contains(flag.name)) {
            found.notice(
                Notice::new(Level::Warn, "flag has no meaning here - ignoring")
                    .with("flag-name", flag.name)
                    .with("reason", because),
            );
        }
    }
    for (flag, timeout) in [("raft-read-timeout", s.raft_read_timeout), ("raft-write-timeout", s.raft_write_timeout)] {
        if timeout < MIN_RAFT_TIMEOUT {
            found.notice(Notice::new(Level::Info, format!("{flag} increased to minimum value: {MIN_RAFT_TIMEOUT}")));
        }
    }
    let progress = s.watch_progress_notify_interval;
    if progress != Duration(0) && progress < MIN_PROGRESS_INTERVAL {
        found.notice(
            Notice::new(Level::Warn, "adjusting watch progress notify interval to minimum period")
                .with("min-watch-progress-notify-interval", MIN_PROGRESS_INTERVAL),
        );
    }
    if !(4..=31).contains(&s.bcrypt_cost) {
        found.notice(
            Notice::new(Level::Warn, "use default bcrypt cost instead of the invalid given cost")
                .with("given-cost", s.bcrypt_cost)
                .with("default-cost", 10),
        );
    }
    if u64::try_from(s.quota_backend_bytes).is_ok_and(|quota| quota > LARGEST_TRIED_QUOTA) {
        found.notice(
            Notice::new(Level::Warn, "quota exceeds the maximum value")
                .with("quota-size-bytes", s.quota_backend_bytes)
                .with("quota-maximum-size-bytes", LARGEST_TRIED_QUOTA),
        );
    }
    if s.max_request_bytes > RECOMMENDED_REQUEST_BYTES {
        found.notice(
            Notice::new(Level::Warn, "exceeded recommended request limit")
                .with("max-request-bytes", s.max_request_bytes)
                .with("recommended-request-bytes", RECOMMENDED_REQUEST_BYTES),
        );
    }
    if s.unsafe_no_fsync {
        found.notice(Notice::new(
            Level::Warn,
            "--unsafe-no-fsync is set: a crash of the machine loses acknowledged writes",
        ));
    }
}

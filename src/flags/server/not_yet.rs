//! Flags that are read and validated and that the member does nothing about yet.
//!
//! Giving one is said in the log. A flag leaves this list in the commit that honours it.

pub(super) const NOT_YET: [&str; 31] = [
    "auth-token",
    "auth-token-ttl",
    "auto-compaction-mode",
    "auto-compaction-retention",
    "bcrypt-cost",
    "bootstrap-defrag-threshold-megabytes",
    "cipher-suites",
    "client-cert-allowed-hostname",
    "client-crl-file",
    "compact-hash-check-time",
    "corrupt-check-time",
    "cors",
    "downgrade-check-time",
    "enable-grpc-gateway",
    "feature-gates",
    "grpc-keepalive-min-time",
    "host-whitelist",
    "initial-election-tick-advance",
    "listen-peer-urls",
    "max-learners",
    "memory-mlock",
    "metrics",
    "raft-read-timeout",
    "raft-write-timeout",
    "self-signed-cert-validity",
    "socket-reuse-address",
    "socket-reuse-port",
    "tls-max-version",
    "tls-min-version",
    "warning-apply-duration",
    "warning-unary-request-duration",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flags_that_exist_and_have_a_meaning_are_listed() {
        for name in NOT_YET {
            let flag = crate::flags::server::flags().into_iter().find(|flag| flag.name == name);
            assert!(flag.is_some_and(|flag| flag.unused().is_none()), "--{name}");
        }
    }
}

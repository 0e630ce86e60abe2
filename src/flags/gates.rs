//! etcd's feature gates: `--feature-gates=CompactHashCheck=true,AllBeta=false`.

use std::collections::BTreeMap;

use super::go;

/// Which of etcd's gated features are on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureGates {
    pub compact_hash_check: bool,
    pub fast_lease_keep_alive: bool,
    pub initial_corrupt_check: bool,
    pub lease_checkpoint: bool,
    pub lease_checkpoint_persist: bool,
    pub priority_request: bool,
    pub set_member_local_addr: bool,
    pub stop_grpc_service_on_defrag: bool,
    pub txn_mode_write_with_shared_buffer: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Alpha,
    Beta,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Alpha => "ALPHA",
            Stage::Beta => "BETA",
        }
    }
}

/// One gate as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    pub name: &'static str,
    /// `ALPHA` or `BETA`.
    pub stage: &'static str,
    pub enabled: bool,
}

/// Name, stage and default of every gate of etcd 3.7.
const GATES: [(&str, Stage, bool); 9] = [
    ("CompactHashCheck", Stage::Alpha, false),
    ("FastLeaseKeepAlive", Stage::Beta, true),
    ("InitialCorruptCheck", Stage::Alpha, false),
    ("LeaseCheckpoint", Stage::Alpha, false),
    ("LeaseCheckpointPersist", Stage::Alpha, false),
    ("PriorityRequest", Stage::Alpha, false),
    ("SetMemberLocalAddr", Stage::Alpha, false),
    ("StopGRPCServiceOnDefrag", Stage::Alpha, false),
    ("TxnModeWriteWithSharedBuffer", Stage::Beta, true),
];

/// The gates as they were given so far. A gate named itself wins over `AllAlpha` and `AllBeta`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenGates(BTreeMap<&'static str, bool>);

impl GivenGates {
    /// Adds `name=bool,name=bool`; nothing is added when any of them is wrong.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let mut added = self.0.clone();
        for item in text.split(',').filter(|item| !item.is_empty()) {
            let (name, value) = match item.split_once('=') {
                Some((name, value)) => (name.trim(), value.trim()),
                None => return Err(format!("missing bool value for {}", item.trim())),
            };
            let on = go::parse_bool(value).map_err(|error| {
                format!("invalid value of {name}={value}, err: {}", error.strconv_text("ParseBool", value))
            })?;
            let known = ["AllAlpha", "AllBeta"].into_iter().chain(GATES.iter().map(|gate| gate.0));
            let name = known
                .into_iter()
                .find(|known| *known == name)
                .ok_or_else(|| format!("unrecognized feature gate: {name}"))?;
            added.insert(name, on);
        }
        self.0 = added;
        Ok(())
    }

    pub fn resolve(&self) -> FeatureGates {
        let enabled = |wanted: &str| {
            let &(name, stage, default) =
                GATES.iter().find(|gate| gate.0 == wanted).expect("invariant: every field of FeatureGates is a gate");
            self.is_on(name, stage, default)
        };
        FeatureGates {
            compact_hash_check: enabled("CompactHashCheck"),
            fast_lease_keep_alive: enabled("FastLeaseKeepAlive"),
            initial_corrupt_check: enabled("InitialCorruptCheck"),
            lease_checkpoint: enabled("LeaseCheckpoint"),
            lease_checkpoint_persist: enabled("LeaseCheckpointPersist"),
            priority_request: enabled("PriorityRequest"),
            set_member_local_addr: enabled("SetMemberLocalAddr"),
            stop_grpc_service_on_defrag: enabled("StopGRPCServiceOnDefrag"),
            txn_mode_write_with_shared_buffer: enabled("TxnModeWriteWithSharedBuffer"),
        }
    }
}

impl std::fmt::Display for GivenGates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pairs: Vec<String> = self.0.iter().map(|(name, on)| format!("{name}={on}")).collect();
        f.write_str(&pairs.join(","))
    }
}

impl GivenGates {
    /// Every gate with its stage and whether it is on.
    pub fn all(&self) -> Vec<Gate> {
        let gate = |&(name, stage, default): &(&'static str, Stage, bool)| Gate {
            name,
            stage: stage.name(),
            enabled: self.is_on(name, stage, default),
        };
        GATES.iter().map(gate).collect()
    }

    /// A gate named itself wins over its stage.
    fn is_on(&self, name: &str, stage: Stage, default: bool) -> bool {
        let all = match stage {
            Stage::Alpha => "AllAlpha",
            Stage::Beta => "AllBeta",
        };
        self.0.get(name).or_else(|| self.0.get(all)).copied().unwrap_or(default)
    }
}

/// One line per gate, for the help page.
pub fn describe() -> impl Iterator<Item = String> {
    let every = [("AllAlpha", Stage::Alpha, false), ("AllBeta", Stage::Beta, false)].into_iter().chain(GATES);
    every.map(|(name, stage, default)| format!("{name}=true|false ({} - default={default})", stage.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> FeatureGates {
        let mut given = GivenGates::default();
        given.add(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        given.resolve()
    }

    #[test]
    fn a_gate_named_itself_wins_over_its_whole_stage() {
        let gates = resolved("LeaseCheckpoint=false,AllAlpha=true");
        assert!(gates.compact_hash_check && gates.priority_request && !gates.lease_checkpoint);
        assert!(gates.fast_lease_keep_alive, "AllAlpha leaves beta gates alone");
        assert!(!resolved("AllBeta=false").txn_mode_write_with_shared_buffer);
    }

    #[test]
    fn wrong_gates_are_refused_with_etcd_texts_and_change_nothing() {
        let mut given = GivenGates::default();
        for (text, error) in [
            ("Foo=true", "unrecognized feature gate: Foo"),
            ("CompactHashCheck", "missing bool value for CompactHashCheck"),
            (
                "LeaseCheckpoint=true,CompactHashCheck=maybe",
                r#"invalid value of CompactHashCheck=maybe, err: strconv.ParseBool: parsing "maybe": invalid syntax"#,
            ),
        ] {
            assert_eq!(given.add(text), Err(error.to_owned()));
        }
        assert_eq!(given, GivenGates::default());
        assert_eq!(given.add(" CompactHashCheck = T ,,"), Ok(()));
        assert_eq!(given.to_string(), "CompactHashCheck=true");
    }
}

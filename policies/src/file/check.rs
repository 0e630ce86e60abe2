//! What can be read and makes no sense: contradictions, rules that starve somebody, rules about nothing.

mod levels;
mod overlap;
mod quotas;
mod rules;

use super::{
    Problem, Spec,
    locate::{Step, locate, write_path},
};
use crate::{IdentitySource, policy::OURS};

/// Something wrong with the document, and which node it is about.
#[derive(Debug)]
pub(super) struct Finding {
    path: Vec<Step>,
    text: String,
    hint: Option<String>,
}

impl Finding {
    /// Finds the line in the text that the document was read from.
    pub fn locate(self, text: &str) -> Problem {
        // A key that was left out has no place; what should hold it has one.
        let place = (0..=self.path.len()).rev().find_map(|end| locate(text, &self.path[..end]));
        let (line, column) = place.unwrap_or((0, 0));
        Problem { line, column, path: write_path(&self.path), text: self.text, hint: self.hint }
    }
}

/// Errors make a file unusable; warnings do not.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub errors: Vec<Finding>,
    pub warnings: Vec<Finding>,
}

/// Where in the document a check is.
#[derive(Clone, Debug, Default)]
struct Place(Vec<Step>);

impl Place {
    fn key(&self, key: &str) -> Place {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.to_owned()));
        Place(steps)
    }

    fn index(&self, index: usize) -> Place {
        let mut steps = self.0.clone();
        steps.push(Step::Index(index));
        Place(steps)
    }
}

impl Findings {
    fn error(&mut self, place: &Place, text: impl Into<String>) -> &mut Finding {
        self.errors.push(Finding { path: place.0.clone(), text: text.into(), hint: None });
        self.errors.last_mut().expect("invariant: one was pushed")
    }

    fn warn(&mut self, place: &Place, text: impl Into<String>) -> &mut Finding {
        self.warnings.push(Finding { path: place.0.clone(), text: text.into(), hint: None });
        self.warnings.last_mut().expect("invariant: one was pushed")
    }
}

impl Finding {
    fn hint(&mut self, hint: impl Into<String>) {
        self.hint = Some(hint.into());
    }
}

/// How many rules, quotas or namespaces there may be: a request is compared with each.
const LIST_MAX: usize = 1_000;

/// Finds everything at once, in the order of the document.
pub(super) fn check(spec: &Spec) -> Findings {
    let mut findings = Findings::default();
    let place = Place::default().key("spec");
    let lists = [
        ("flowRules", spec.flow_rules.len()),
        ("quotas", spec.quotas.len()),
        ("namespaces", spec.namespaces.len()),
        ("priorityLevels", spec.priority_levels.len()),
    ];
    for (key, _) in lists.iter().filter(|(_, len)| *len > LIST_MAX) {
        findings.error(&place.key(key), format!("there may be {LIST_MAX} of them"));
    }
    if !findings.errors.is_empty() {
        return findings;
    }
    identity(spec, &place, &mut findings);
    levels::check(spec, &place.key("priorityLevels"), &mut findings);
    rules::check(spec, &place.key("flowRules"), &mut findings);
    quotas::check(&spec.quotas, &place.key("quotas"), &mut findings);
    namespaces(spec, &place.key("namespaces"), &mut findings);
    findings
}

fn identity(spec: &Spec, place: &Place, findings: &mut Findings) {
    if let Some(sources) = &spec.identity {
        let place = place.key("identity");
        if sources.is_empty() {
            findings
                .error(&place, "no source of identity: all clients would be one")
                .hint("leave the key out for tlsCommonName, authUser, peerIP");
        }
        let forged = sources.iter().position(|source| *source == IdentitySource::UserAgent);
        if let Some(at) = forged.filter(|at| at + 1 < sources.len()) {
            findings
                .warn(
                    &place.index(at),
                    "anybody can write any user agent, and has the limits of a new client with each",
                )
                .hint("put userAgent last");
        }
        let metadata = sources.iter().enumerate().filter(|(_, source)| matches!(source, IdentitySource::Metadata(_)));
        for (nth, (at, _)) in metadata.enumerate() {
            if spec.trusted_peers.is_empty() {
                findings
                    .error(&place.index(at), "no peer is trusted, so identity metadata is always stripped")
                    .hint("name the proxies that set it in spec.trustedPeers");
            }
            if nth > 0 {
                findings.error(&place.index(at), "only one metadata key can carry an identity");
            }
        }
    }
    for (at, network) in spec.trusted_peers.iter().enumerate() {
        if network.is_everything() {
            findings
                .warn(&place.key("trustedPeers").index(at), "every peer is trusted: anybody can claim any identity");
        }
    }
    if let Some(admins) = &spec.admin {
        let place = place.key("admin");
        if admins.is_empty() {
            findings
                .error(&place, "nobody is the operator: a limit could lock you out")
                .hint("leave the key out for CN=root, user=root, listener=admin");
        }
        for (at, subject) in admins.iter().enumerate().filter(|(_, subject)| subject.can_be_forged()) {
            findings.error(&place.index(at), format!("anybody can claim to be {subject}, and would pass every limit"));
        }
    }
}

fn namespaces(spec: &Spec, place: &Place, findings: &mut Findings) {
    unique(spec.namespaces.iter().map(|namespace| namespace.name.as_str()), place, findings);
    for (at, namespace) in spec.namespaces.iter().enumerate() {
        let place = place.index(at);
        name(&namespace.name, &place, findings);
        if namespace.prefix.is_empty() {
            findings.error(&place.key("prefix"), "an empty prefix confines nobody");
        }
        if namespace.subjects.is_empty() {
            findings.error(&place.key("subjects"), "nobody is confined").hint("write [\"*\"] for everybody");
        }
        for (nth, subject) in namespace.subjects.iter().enumerate().filter(|(_, subject)| subject.is_agent()) {
            findings.warn(
                &place.key("subjects").index(nth),
                format!("a client that changes its user agent is not {subject} any more, and sees everything"),
            );
        }
    }
}

/// Names are unique among their kind.
fn unique<'a>(names: impl Iterator<Item = &'a str>, place: &Place, findings: &mut Findings) {
    let mut seen: Vec<&str> = Vec::new();
    for (at, name) in names.enumerate() {
        if let Some(first) = seen.iter().position(|earlier| *earlier == name) {
            findings
                .error(&place.index(at).key("name"), format!("{name:?} is the name of number {} already", first + 1));
        }
        seen.push(name);
    }
}

/// A name goes into trailers, metrics and commands.
fn name(name: &str, place: &Place, findings: &mut Findings) {
    let place = place.key("name");
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let ends = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = name.as_bytes();
    if bytes.len() > 63 || !bytes.iter().all(|byte| inner(*byte)) || !ends(bytes.first()) || !ends(bytes.last()) {
        findings
            .error(&place, format!("{name:?} is no name: lower case letters, digits, - and . make one, at most 63"));
    } else if name.starts_with(OURS) {
        findings.error(&place, format!("names that begin with {OURS:?} are those of the rules in every policy"));
    }
}

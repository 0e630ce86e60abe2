use serde_json::Value as Json;

use super::*;
use crate::{Mode, OnLimit};

const FULL: &str = include_str!("../../testdata/full.yaml");

/// A file with these lines as its `spec`.
fn spec(lines: &str) -> String {
    format!("apiVersion: forebay.dev/v1alpha1\nkind: TrafficPolicy\nspec:\n{lines}\n")
}

fn errors(text: &str) -> Vec<String> {
    let problems = load(text).expect_err(text);
    assert!(!problems.is_empty());
    let hint = |problem: &Problem| problem.hint.as_ref().map(|hint| format!(" [{hint}]")).unwrap_or_default();
    problems.iter().map(|problem| format!("{problem}{}", hint(problem))).collect()
}

fn warnings(text: &str) -> Vec<String> {
    let loaded = load(text).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
    loaded.warnings.iter().map(Problem::to_string).collect()
}

#[test]
fn a_file_with_every_key_becomes_a_policy() {
    let loaded = load(FULL).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert!(
        loaded.warnings.iter().all(|warning| warning.to_string().contains("gateways count objects only")),
        "{:#?}",
        loaded.warnings
    );
    let policy = loaded.policy;
    let names: Vec<&str> = policy.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert!(names[..5].iter().all(|name| name.starts_with("forebay-")), "{names:?}");
    assert_eq!(names[5..], ["leases", "cronjob-lists", "health", "default", "forebay-catch-all"]);
    let lists = &policy.rules[6];
    assert_eq!(
        (lists.mode, lists.on_limit, &policy.level(lists.level).name[..]),
        (Mode::Enforce, OnLimit::Paginate, "workload")
    );
    assert_eq!(policy.rules[7].mode, Mode::Shadow, "a rule that does not say so counts only");
    assert_eq!(policy.levels.len(), 5, "catch-all exists without being named");
    assert_eq!(policy.quotas[0].hard.bytes, Some(256 << 20));
}

#[test]
fn the_built_in_policy_is_valid_and_limits_nobody() {
    let loaded = load(Policy::builtin_text()).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert_eq!(loaded.warnings, []);
    let own = loaded.policy.rules.iter().filter(|rule| !rule.is_ours());
    assert!(own.clone().count() > 0 && own.into_iter().all(|rule| rule.limits.is_empty() && rule.total.is_empty()));
}

/// Whatever the types write, the schema has; whatever the schema has, the full file has written.
#[test]
fn the_schema_and_the_types_have_the_same_keys() {
    fn compare(schema: &Json, root: &Json, value: &Json, path: &str) {
        let schema = match schema.get("$ref").and_then(Json::as_str) {
            Some(reference) => root.pointer(&reference[1..]).expect("a definition"),
            None => schema,
        };
        if let (Some(properties), Some(object)) =
            (schema.get("properties").and_then(Json::as_object), value.as_object())
        {
            assert_eq!(schema["additionalProperties"], false, "{path}");
            for (key, value) in object {
                compare(&properties[key], root, value, &format!("{path}.{key}"));
            }
        }
        if let Some(elements) = value.as_array() {
            elements.iter().for_each(|element| compare(&schema["items"], root, element, path));
        }
    }
    fn keys(value: &Json, into: &mut std::collections::BTreeSet<String>) {
        match value {
            Json::Object(object) => object.iter().for_each(|(key, value)| {
                into.insert(key.clone());
                keys(value, into);
            }),
            Json::Array(elements) => elements.iter().for_each(|element| keys(element, into)),
            _ => {}
        }
    }
    fn properties(schema: &Json, into: &mut std::collections::BTreeSet<String>) {
        if let Some(object) = schema.as_object() {
            if let Some(own) = object.get("properties").and_then(Json::as_object) {
                into.extend(own.keys().cloned());
            }
            object.values().for_each(|value| properties(value, into));
        }
    }
    let root: Json = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    let document = serde_json::to_value(load(FULL).expect("a valid file").document).expect("JSON");
    compare(&root, &root, &document, "");
    let (mut written, mut known) = Default::default();
    keys(&document, &mut written);
    properties(&root, &mut known);
    assert_eq!(written, known);
    let again = yaml_serde::to_string(&load(FULL).expect("a valid file").document).expect("YAML");
    assert_eq!(load(&again).expect("what was written can be read").document, load(FULL).expect("valid").document);
}

#[test]
fn every_unknown_key_is_found_with_its_place_and_the_nearest() {
    let text = spec(
        "  flowrules: []\n  priorityLevels:\n    - {name: a, share: 3}\n    - name: b\n      queuelength: 4\n  xyzzy: 1",
    );
    assert_eq!(
        errors(&text),
        [
            "line 4, column 3: spec: unknown key \"flowrules\" [did you mean flowRules?]",
            "line 6, column 17: spec.priorityLevels[0]: unknown key \"share\" [did you mean shares?]",
            "line 8, column 7: spec.priorityLevels[1]: unknown key \"queuelength\" [did you mean queueLength?]",
            "line 9, column 3: spec: unknown key \"xyzzy\" [there is admin, flowRules, identity, namespaces, priorityLevels, \
         quotas, trustedPeers]",
        ]
    );
}

#[test]
fn values_that_cannot_be_read_have_their_place() {
    let rule = |line: &str| {
        spec(&format!(
            "  flowRules:\n    - name: a\n      matchingPrecedence: 1\n      match: {{}}\n      priorityLevel: exempt\n      {line}"
        ))
    };
    for (text, part) in [
        ("a: [", "line"),
        ("apiVersion: forebay.dev/v2\nkind: TrafficPolicy\nspec: {}", "line 1, column 13"),
        ("apiVersion: forebay.dev/v1alpha1\nspec: {}", "missing field `kind`"),
        (&rule("limits: {requests: 5}"), "line 9, column 26"),
        (&rule("limits: {requests: 0/s}"), "lets nothing through"),
        (&rule("limits: {load: fast}"), "is no rate"),
        (&rule("mode: Enforced"), "unknown variant `Enforced`"),
        (&rule("distinguishBy: [prefix/0]"), "distinguishes nothing"),
        (&rule("total: {burst: -1}"), "expected a quantity"),
        (&rule("name: b"), "duplicate"),
        (&spec("  identity: [tlscommonname]"), "did you mean tlsCommonName?"),
        (&spec("  admin: [root]"), "neither * nor one of"),
        ("", "line"),
        ("- 1", "line"),
    ] {
        let errors = errors(text);
        assert!(errors[0].contains(part), "{text}\n{errors:?}");
    }
}

#[test]
fn what_contradicts_or_starves_is_refused_with_the_line() {
    let text = spec(
        "  identity: []
  admin: ['*']
  priorityLevels:
    - {name: Work, shares: 0}
    - {name: open, exempt: true, queues: 4}
    - {name: exempt, shares: 5}
    - {name: narrow, queues: 2, handSize: 3}
    - {name: open, codel: {target: 100ms, interval: 10ms}}
  flowRules:
    - {name: forebay-x, matchingPrecedence: 5, match: {}, priorityLevel: narow}
    - name: b
      matchingPrecedence: 5
      match: {rpcs: [LeaseKeepAlive], minObjects: 5}
      priorityLevel: narrow
      limits:
        concurrency: 0
        burst: 5
  quotas:
    - {name: q, prefix: /a/b/, per: segment(3), hard: {}, allowWhenExceeded: [UpdateNotLarger]}
    - {name: r, prefix: /c/, hard: {bytes: 10, objectBytes: 11, uncompactedBytes: 9}}
    - {name: s, prefix: /c/, hard: {objects: 1}}
  namespaces:
    - {name: n, subjects: [], prefix: ''}",
    );
    let found = errors(&text);
    let wanted = [
        "line 4, column 3: spec.identity: no source of identity",
        "line 5, column 11: spec.admin[0]: anybody can claim to be *",
        "line 11, column 8: spec.priorityLevels[4].name: \"open\" is the name of number 2 already",
        "spec.priorityLevels[0].name: \"Work\" is no name",
        "spec.priorityLevels[0].shares: shares of 0 gives the level nothing",
        "spec.priorityLevels[1].queues: requests of an exempt level never wait",
        "spec.priorityLevels[2]: the level exempt has to be exempt",
        "spec.priorityLevels[3].handSize: a hand cannot hold more queues than there are, 2",
        "spec.priorityLevels[4].codel.interval: the interval is shorter than the target",
        "spec.flowRules[0].name: names that begin with \"forebay-\"",
        "spec.flowRules[0].priorityLevel: no level is called \"narow\" [did you mean narrow?]",
        "spec.flowRules[1].match.rpcs[0]: LeaseKeepAlive is in the hands of",
        "spec.flowRules[1].match.minObjects: none of the rule's methods answers with objects",
        "line 19, column 9: spec.flowRules[1].limits.concurrency: concurrency of 0 lets nothing through",
        "spec.flowRules[1].limits.burst: a burst of what is not limited: requests is not set",
        "spec.flowRules[1].matchingPrecedence: rule \"forebay-x\" has the same",
        "spec.quotas[0].per: the prefix has 3 slashes",
        "spec.quotas[0].hard: nothing is bounded",
        "spec.quotas[0].allowWhenExceeded: Delete and LeaseRevoke have to be allowed",
        "spec.quotas[1].hard.objectBytes: one object may not have more than all of them, 10",
        "spec.quotas[1].hard.uncompactedBytes: all revisions may not have less",
        "spec.quotas[2].prefix: quota \"r\" is for the same keys",
        "spec.namespaces[0].prefix: an empty prefix confines nobody",
        "spec.namespaces[0].subjects: nobody is confined",
    ];
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    for (found, wanted) in found.iter().zip(wanted) {
        assert!(found.contains(wanted), "wanted {wanted:?}\nfound  {found:?}");
    }
}

#[test]
fn what_is_hardly_meant_is_warned_about() {
    let text = spec(
        "  identity: [userAgent, peerIP]
  priorityLevels:
    - {name: unused}
    - {name: slow, maxWait: 10s}
  flowRules:
    - {name: all, matchingPrecedence: 10, mode: Enforce, match: {rpcs: [Range, Put]}, priorityLevel: slow}
    - {name: late, matchingPrecedence: 20, match: {rpcs: [Put], keys: [/a/]}, priorityLevel: slow}
    - name: wide
      matchingPrecedence: 5
      match: {rpcs: [Txn]}
      priorityLevel: slow
      limits: {requests: 100/s}
      total: {requests: 50/s}
      onLimit: Paginate
  quotas:
    - {name: outer, prefix: /a/, hard: {objects: 10}}
    - {name: inner, prefix: /a/b, hard: {objects: 20, objectBytes: 2MiB}}",
    );
    let found = warnings(&text);
    let wanted = [
        "line 4, column 14: spec.identity[0]: anybody can write any user agent",
        "spec.priorityLevels[0]: no rule sends requests to level \"unused\"",
        "spec.priorityLevels[1].maxWait: clients of etcd give up after 5s",
        "line 10, column 7: spec.flowRules[1]: never reached: rule \"all\"",
        "spec.flowRules[2].limits.requests: more than total.requests",
        "spec.flowRules[2].onLimit: Paginate is about limits of objects",
        "spec.quotas[1].prefix: the quota is also for keys like /a/bx",
        "spec.quotas[1].hard.objectBytes: larger than any request may be",
        "spec.quotas[1].hard.objects: more than quota \"outer\" allows",
    ];
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    for (found, wanted) in found.iter().zip(wanted) {
        assert!(found.contains(wanted), "wanted {wanted:?}\nfound  {found:?}");
    }
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let text = spec(&format!("  admin: [CN={}]", "a".repeat(FILE_BYTES_MAX)));
    assert!(errors(&text)[0].contains("the file has more than"));
    let rules = "    - {name: a, matchingPrecedence: 1, match: {}, priorityLevel: exempt}\n".repeat(1_001);
    assert_eq!(errors(&spec(&format!("  flowRules:\n{rules}"))).len(), 1);
}

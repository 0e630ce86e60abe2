//! Where in a file a node of it stands.
//!
//! The YAML reader knows the place of what it cannot read. So a node is found by reading the file once more and
//! refusing that very node.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// One step down a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// Line and column of a node, counted from 1: of its key if it has one. None if there is no such node.
pub(super) fn locate(text: &str, path: &[Step]) -> Option<(usize, usize)> {
    let error = Refuse(path).deserialize(yaml_serde::Deserializer::from_str(text)).err()?;
    let place = error.location()?;
    Some((place.line(), place.column()))
}

/// `spec.flowRules[2].limits`.
pub(super) fn write_path(path: &[Step]) -> String {
    let mut written = String::new();
    for step in path {
        match step {
            Step::Key(key) => {
                if !written.is_empty() {
                    written.push('.');
                }
                written.push_str(key);
            }
            Step::Index(index) => written.push_str(&format!("[{index}]")),
        }
    }
    written
}

/// Reads everything and refuses what the path leads to.
struct Refuse<'p>(&'p [Step]);

/// Reads a key, and refuses it if it is the one.
struct RefuseKey<'p>(Option<&'p str>);

impl<'de> DeserializeSeed<'de> for Refuse<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Refuse<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what leads to the node")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (wanted, rest) = match self.0 {
            [] => return Err(A::Error::custom("found")),
            [Step::Key(key), rest @ ..] => (Some(key.as_str()), rest),
            [Step::Index(_), ..] => (None, [].as_slice()),
        };
        while let Some(key) = map.next_key_seed(RefuseKey(wanted.filter(|_| rest.is_empty())))? {
            if Some(key.as_str()) == wanted {
                map.next_value_seed(Refuse(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let (wanted, rest) = match self.0 {
            [] => return Err(A::Error::custom("found")),
            [Step::Index(index), rest @ ..] => (Some(*index), rest),
            [Step::Key(_), ..] => (None, [].as_slice()),
        };
        for at in 0.. {
            let more = match wanted == Some(at) {
                true => seq.next_element_seed(Refuse(rest))?.is_some(),
                false => seq.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.scalar()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.scalar()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar()
    }
}

impl Refuse<'_> {
    fn scalar<E: Error>(&self) -> Result<(), E> {
        if self.0.is_empty() { Err(E::custom("found")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for RefuseKey<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for RefuseKey<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        if self.0 == Some(key) { Err(E::custom("found")) } else { Ok(key.to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<Step> {
        text.split('.').map(|step| step.parse().map_or_else(|_| Step::Key(step.to_owned()), Step::Index)).collect()
    }

    #[test]
    fn nodes_are_found_where_they_stand() {
        let text = "a: 1\nb:\n  - c: x\n    d: [1, {e: 2}]\n  - 7\nf: null\n";
        for (steps, place) in [
            ("a", Some((1, 1))),
            ("b.0", Some((3, 5))),
            ("b.0.d", Some((4, 5))),
            ("b.0.d.1.e", Some((4, 13))),
            ("b.1", Some((5, 5))),
            ("f", Some((6, 1))),
            ("b.2", None),
            ("b.0.x", None),
            ("a.x", None),
        ] {
            assert_eq!(locate(text, &path(steps)), place, "{steps}");
        }
        assert_eq!(write_path(&path("spec.flowRules.2.limits")), "spec.flowRules[2].limits");
    }
}

//! A table of flags: for each its name, the setting it fills and how text is read into it.
//!
//! The same table serves the command line, the environment, the configuration file and the help page. `S` is the
//! settings struct of one role: what was said, before anything is validated.

use std::collections::BTreeSet;

use super::{
    file::Node,
    gates::GivenGates,
    go::{self, Duration, NumberError},
    url::Url,
};

/// One flag.
pub struct Flag<S> {
    pub name: &'static str,
    pub slot: Slot<S>,
    /// Where the configuration file has it, dotted; `None` when it has no place there.
    pub key: Option<&'static str>,
    /// The heading on the help page it stands under.
    pub group: &'static str,
    pub help: &'static str,
}

/// The setting a flag fills, and with it the syntax of its values.
pub enum Slot<S> {
    Bool(fn(&mut S) -> &mut bool),
    Text(fn(&mut S) -> &mut String),
    /// One of a few words.
    Choice(fn(&mut S) -> &mut String, &'static [&'static str]),
    Int(fn(&mut S) -> &mut i64),
    Uint(fn(&mut S) -> &mut u64),
    /// etcd reads this one with another parser, which words its errors differently.
    Uint32(fn(&mut S) -> &mut u32),
    Duration(fn(&mut S) -> &mut Duration),
    Urls(fn(&mut S) -> &mut Vec<Url>),
    /// Sorted, each once.
    Set(fn(&mut S) -> &mut BTreeSet<String>),
    /// In the order given.
    List(fn(&mut S) -> &mut Vec<String>),
    /// URLs, or `*`.
    Origins(fn(&mut S) -> &mut BTreeSet<String>),
    Gates(fn(&mut S) -> &mut GivenGates),
    /// Read and checked as the kind says, and of no consequence here for the reason given.
    Unused(Kind, &'static str),
}

/// The syntax of a flag that has no setting.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Bool,
    Text,
    Int,
    Uint,
    Duration,
    Choice(&'static [&'static str]),
    /// Several words of a few, with commas.
    Choices(&'static [&'static str]),
    /// Anything, or no value at all: flags that etcd itself only accepts for the sake of old command lines.
    Anything,
}

impl<S> Flag<S> {
    pub fn new(group: &'static str, name: &'static str, slot: Slot<S>, help: &'static str) -> Flag<S> {
        Flag { name, slot, key: Some(name), group, help }
    }

    /// Gives the flag another place in the configuration file than its name.
    pub fn at(self, key: &'static str) -> Flag<S> {
        Flag { key: Some(key), ..self }
    }

    /// Takes the flag out of the configuration file.
    pub fn not_in_file(self) -> Flag<S> {
        Flag { key: None, ..self }
    }

    /// Why the flag has no meaning here, if it has none.
    pub fn unused(&self) -> Option<&'static str> {
        match self.slot {
            Slot::Unused(_, because) => Some(because),
            _ => None,
        }
    }
}

impl<S> Slot<S> {
    /// Whether the flag may stand alone; then the next argument is never its value.
    pub fn is_switch(&self) -> bool {
        matches!(self, Slot::Bool(_) | Slot::Unused(Kind::Bool | Kind::Anything, _))
    }

    /// Reads `text` into the setting; on an error the setting stays as it was.
    pub fn set(&self, settings: &mut S, text: &str) -> Result<(), String> {
        match self {
            Slot::Bool(field) => *field(settings) = go::parse_bool(text).map_err(NumberError::flag_text)?,
            Slot::Text(field) => text.clone_into(field(settings)),
            Slot::Choice(field, words) => {
                Kind::Choice(words).check(text)?;
                text.clone_into(field(settings));
            }
            Slot::Int(field) => *field(settings) = go::parse_int(text).map_err(NumberError::flag_text)?,
            Slot::Uint(field) => *field(settings) = go::parse_uint(text, 64).map_err(NumberError::flag_text)?,
            Slot::Uint32(field) => {
                let value = go::parse_uint(text, 32).map_err(|error| error.strconv_text("ParseUint", text))?;
                *field(settings) = u32::try_from(value).expect("invariant: parse_uint keeps within 32 bits");
            }
            Slot::Duration(field) => *field(settings) = duration(text)?,
            Slot::Urls(field) => {
                let urls = field(settings);
                // As in etcd: nothing, or one URL of the list, leaves the list as it is.
                if !text.is_empty() && !urls.iter().any(|url| url.as_str() == text) {
                    *urls = Url::parse_list(text)?;
                }
            }
            Slot::Set(field) => *field(settings) = text.split(',').map(str::to_owned).collect(),
            Slot::List(field) => *field(settings) = text.split(',').map(str::to_owned).collect(),
            Slot::Origins(field) => {
                let origins = field(settings);
                if text == "*" {
                    origins.insert(text.to_owned());
                } else if !origins.contains(text) {
                    *origins = Url::parse_list(text)?.iter().map(Url::to_string).collect();
                }
            }
            Slot::Gates(field) => field(settings).add(text)?,
            Slot::Unused(kind, _) => kind.check(text)?,
        }
        Ok(())
    }

    /// Reads a value of the configuration file. Our own roles' files may hold `5s` and lists of URLs, which etcd's may
    /// not.
    pub fn set_node(&self, settings: &mut S, node: &Node, own_file: bool) -> Result<(), String> {
        let wrong = |wanted: &str| Err(format!("must be {wanted}, not {}", node.describe()));
        match (self, node) {
            (_, Node::Null) => Ok(()),
            (Slot::Bool(field), node) => match node.as_bool() {
                Some(value) => {
                    *field(settings) = value;
                    Ok(())
                }
                None => wrong("true or false"),
            },
            (Slot::Int(_), Node::Number(number)) => self.set(settings, number).or_else(|_| wrong("a whole number")),
            (Slot::Int(_), _) => wrong("a whole number"),
            (Slot::Uint(_) | Slot::Uint32(_), Node::Number(number)) => {
                self.set(settings, number).or_else(|_| wrong("a whole number, not negative"))
            }
            (Slot::Uint(_) | Slot::Uint32(_), _) => wrong("a whole number, not negative"),
            (Slot::Duration(field), Node::Number(number)) => match go::parse_int(number) {
                Ok(nanoseconds) => {
                    *field(settings) = Duration(nanoseconds);
                    Ok(())
                }
                Err(_) => wrong("a whole number of nanoseconds"),
            },
            (Slot::Duration(_), Node::Text(text)) if own_file => self.set(settings, text),
            (Slot::Duration(_), _) if own_file => wrong("a duration such as 5s"),
            (Slot::Duration(_), Node::Text(text)) => match Duration::parse(text) {
                Ok(value) => Err(format!("must be a number of nanoseconds: write {} for {text}", value.0)),
                Err(_) => wrong("a number of nanoseconds"),
            },
            (Slot::Duration(_), _) => wrong("a number of nanoseconds"),
            (Slot::List(field), Node::List(items)) => {
                *field(settings) = texts(items)?;
                Ok(())
            }
            (Slot::Set(field), Node::List(items)) => {
                *field(settings) = texts(items)?.into_iter().collect();
                Ok(())
            }
            (Slot::Urls(_) | Slot::Origins(_), Node::List(items)) if own_file => {
                self.set(settings, &texts(items)?.join(","))
            }
            (Slot::Unused(kind, _), node) => match (kind, node) {
                (Kind::Duration, Node::Number(_)) | (_, Node::List(_) | Node::Map(_)) => Ok(()),
                (_, Node::Bool(value)) => kind.check(&value.to_string()),
                (_, Node::Number(text) | Node::Text(text)) => kind.check(text),
                (_, Node::Null) => Ok(()),
            },
            // In the file an empty text is the same as none.
            (_, Node::Text(text)) if text.is_empty() && !matches!(self, Slot::Text(_)) => Ok(()),
            (Slot::Choice(_, words), Node::Text(text)) if !words.contains(&text.as_str()) => {
                wrong(&format!("one of {}", words.join(", ")))
            }
            (_, Node::Text(text)) => self.set(settings, text),
            (Slot::List(_) | Slot::Set(_), _) => wrong("a list"),
            (_, Node::Number(_) | Node::Bool(_)) => {
                Err(format!("must be a text, not {}: put it in quotes", node.describe()))
            }
            _ => wrong("a text"),
        }
    }

    /// The setting as it could be given on the command line.
    pub fn show(&self, settings: &mut S) -> String {
        fn joined<'a>(items: impl IntoIterator<Item = &'a String>) -> String {
            items.into_iter().map(String::as_str).collect::<Vec<_>>().join(",")
        }
        match self {
            Slot::Bool(field) => field(settings).to_string(),
            Slot::Text(field) | Slot::Choice(field, _) => field(settings).clone(),
            Slot::Int(field) => field(settings).to_string(),
            Slot::Uint(field) => field(settings).to_string(),
            Slot::Uint32(field) => field(settings).to_string(),
            Slot::Duration(field) => field(settings).to_string(),
            Slot::Urls(field) => field(settings).iter().map(Url::as_str).collect::<Vec<_>>().join(","),
            Slot::Set(field) | Slot::Origins(field) => joined(field(settings).iter()),
            Slot::List(field) => joined(field(settings).iter()),
            Slot::Gates(field) => field(settings).to_string(),
            Slot::Unused(..) => String::new(),
        }
    }
}

impl Kind {
    fn check(self, text: &str) -> Result<(), String> {
        match self {
            Kind::Bool => go::parse_bool(text).map(drop).map_err(NumberError::flag_text),
            Kind::Int => go::parse_int(text).map(drop).map_err(NumberError::flag_text),
            Kind::Uint => go::parse_uint(text, 64).map(drop).map_err(NumberError::flag_text),
            Kind::Duration => duration(text).map(drop),
            Kind::Choice(words) if !words.contains(&text) => Err("invalid value".to_owned()),
            Kind::Choices(words) => match text.split(',').find(|word| !words.contains(word)) {
                Some(word) => Err(format!("invalid value {}", go::quote(word))),
                None => Ok(()),
            },
            Kind::Text | Kind::Choice(_) | Kind::Anything => Ok(()),
        }
    }
}

/// Go's `flag` package hides what exactly is wrong with a duration.
fn duration(text: &str) -> Result<Duration, String> {
    Duration::parse(text).map_err(|_| NumberError::Syntax.flag_text())
}

fn texts(items: &[Node]) -> Result<Vec<String>, String> {
    items
        .iter()
        .map(|item| match item {
            Node::Text(text) => Ok(text.clone()),
            other => Err(format!("must be a list of texts, not of {}", other.describe())),
        })
        .collect()
}

//! Reading what a command was told: flags and other words in any order, as etcd's tools take them.

use std::path::PathBuf;

use forebay_utl::table::Shape;

use super::Failure;
use crate::flags::{
    Problem,
    syntax::{self, Given, UsageError},
    table::Flag,
};

/// Takes `-w`, which may stand anywhere, out of the words.
pub(super) fn shape(args: &[String]) -> Result<(Shape, Vec<String>), Failure> {
    let mut shape = Shape::Simple;
    let mut rest = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (name, value) = arg.split_once('=').map_or((arg.as_str(), None), |(name, value)| (name, Some(value)));
        if !matches!(name, "-w" | "--write-out" | "-o" | "--output") {
            rest.push(arg.clone());
            continue;
        }
        let word = value.or_else(|| args.next().map(String::as_str));
        shape = match word {
            Some("simple" | "plain") => Shape::Simple,
            Some("table") => Shape::Table,
            Some("json") => Shape::Json,
            Some("fields") => Shape::Fields,
            _ => {
                let problem = Problem::new(format!("{name}: unsupported output format"));
                return Err(Failure::Usage(vec![problem.hint("write one of simple, table, json, fields")]));
            }
        };
    }
    Ok((shape, rest))
}

/// Reads flags into `settings` and returns the other words, which may stand between them.
pub(super) fn read<S>(flags: &[Flag<S>], settings: &mut S, args: &[String]) -> Result<Vec<String>, Failure> {
    let mut words = Vec::new();
    let mut rest = args.to_vec();
    loop {
        let Given { rest: left, errors, help, .. } = syntax::parse(flags, settings, &rest);
        if help {
            return Err(Failure::usage("this needs more words"));
        }
        if !errors.is_empty() {
            let problem = |UsageError { text, hint }| Problem { text, hint };
            return Err(Failure::Usage(errors.into_iter().map(problem).collect()));
        }
        let Some((word, after)) = left.split_first() else { return Ok(words) };
        words.push(word.clone());
        rest = after.to_vec();
    }
}

/// The one word that a command needs.
pub(super) fn only(what: &str, words: Vec<String>) -> Result<PathBuf, Failure> {
    match <[String; 1]>::try_from(words) {
        Ok([word]) => Ok(PathBuf::from(word)),
        Err(_) => Err(Failure::usage(format!("{what} requires exactly one argument"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::table::Slot;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn flags_and_words_stand_in_any_order() {
        let flags = [Flag::new("", "rev", Slot::Int(|rev: &mut i64| rev), "")];
        for line in ["--rev 7 file", "file --rev=7", "file -rev 7"] {
            let mut revision = 0;
            let words = read(&flags, &mut revision, &words(line)).expect("it reads");
            assert_eq!((revision, words), (7, vec!["file".to_owned()]), "{line}");
        }
        assert!(matches!(read(&flags, &mut 0, &words("--revision 7")), Err(Failure::Usage(_))));
    }

    #[test]
    fn the_shape_may_stand_anywhere() {
        for line in ["-w json hashkv db", "hashkv --write-out=json db", "hashkv db -o json"] {
            let (shape, rest) = shape(&words(line)).expect("it reads");
            assert_eq!((shape, rest), (Shape::Json, words("hashkv db")), "{line}");
        }
        assert!(shape(&words("-w yaml")).is_err());
    }
}

//! Answers of DNS servers.

use forebay::discovery::dns::{Answer, answer, question};

use crate::input::Input;

/// An answer names hosts and ports and nothing else, in order, or it is none.
///
/// Input: a chunk that is the name that was asked for, then the answer behind what repeats the question.
pub fn dns_answers(data: &[u8]) {
    let mut input = Input::new(data);
    let Ok(name) = std::str::from_utf8(input.chunk()) else { return };
    let Ok(asked) = question(7, name) else { return };
    let mut message = asked.clone();
    for place in [2, 3, 6, 7] {
        message[place] = input.byte();
    }
    message.extend(input.rest());
    let Ok(Answer::Records(records)) = answer(&asked, &message) else { return };
    assert!(!records.is_empty() && records.is_sorted(), "records come in order: {records:?}");
    for record in &records {
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        assert!(!record.host.is_empty() && record.host.chars().all(is_host), "{:?} is no host", record.host);
    }
    // An answer to any other question is none.
    let mut other = asked;
    other[0] ^= 1;
    assert!(answer(&other, &message).is_err());
}

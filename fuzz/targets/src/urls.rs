//! Addresses, and the numbers and durations of flags, from text.

use forebay::flags::{
    go::{self, Duration},
    url::Url,
};
use forebay_gateway::upstream::Address;

/// What is read from a text is read again from how it prints. The input is the text.
pub fn urls(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(url) = Url::parse(text) {
        assert_eq!(Url::parse(url.as_str()), Ok(url.clone()));
        if let (Some(host), Some(port)) = (url.host(), url.port()) {
            let same = url.with_address(host, port);
            assert_eq!((same.host(), same.port()), (Some(host), Some(port)));
        }
    }
    if let Ok(list) = Url::parse_list(text) {
        assert!(list.is_sorted_by(|a, b| a < b), "a list is sorted and holds each URL once");
        let printed = list.iter().map(Url::as_str).collect::<Vec<_>>().join(",");
        assert_eq!(Url::parse_list(&printed), Ok(list));
    }
    if let Ok(list) = Address::list(text) {
        let printed: Vec<String> = list.iter().map(Address::to_string).collect();
        assert_eq!(Address::list(&printed.join(",")), Ok(list));
    }
    if let Ok(duration) = Duration::parse(text) {
        assert_eq!(Duration::parse(&duration.to_string()), Ok(duration));
    }
    if let Ok(number) = go::parse_int(text) {
        assert_eq!(go::parse_int(&number.to_string()), Ok(number));
        assert_eq!(go::parse_uint(text.trim_start_matches(['+', '-']), 64), Ok(number.unsigned_abs()));
    }
    let quoted = go::quote(text);
    assert!(!quoted.contains(char::is_control), "a quoted text moves no cursor");
}

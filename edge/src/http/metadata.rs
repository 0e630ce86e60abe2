//! HTTP header fields into gRPC metadata and a deadline, by the rules of etcd's JSON gateway.

use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, header};
use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD_NO_PAD},
};
use tonic::Status;

use super::access::host;
use crate::{Request, grpc, listener::Peer};

/// Fields that are passed on under a prefix. Their presence tells a JSON request from a gRPC one: a
/// user by certificate is never taken from a request that has `grpcgateway-accept`.
const PERMANENT: [&str; 23] = [
    "accept",
    "accept-charset",
    "accept-language",
    "accept-ranges",
    "authorization",
    "cache-control",
    "content-type",
    "cookie",
    "date",
    "expect",
    "from",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-schedule-tag-match",
    "if-unmodified-since",
    "max-forwards",
    "origin",
    "pragma",
    "referer",
    "user-agent",
    "via",
    "warning",
];

/// Names that gRPC or HTTP/2 keeps for itself; a caller cannot set them.
const RESERVED: [&str; 16] = [
    "content-type",
    "user-agent",
    "te",
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-message",
    "grpc-message-type",
    "grpc-status",
    "grpc-status-details-bin",
    "grpc-timeout",
];

/// What W3C Trace Context says of a call; etcd's gateway passes it on only as `Grpc-Metadata-Traceparent`.
const TRACE_CONTEXT: [&str; 2] = ["traceparent", "tracestate"];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What goes with the call.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) headers: HeaderMap,
    /// How long the caller waits; zero if it has stopped already.
    pub(super) timeout: Option<Duration>,
}

impl Metadata {
    /// Takes a request's header fields over.
    pub(super) fn of(request: &Request) -> Result<Metadata, Status> {
        let timeout = timeout(request.headers())?;
        let mut headers = HeaderMap::with_capacity(request.headers().len() + 6);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        for (name, value) in request.headers() {
            let name_text = name.as_str();
            if name == header::AUTHORIZATION && is_printable(value) {
                headers.append(header::AUTHORIZATION, value.clone());
            }
            if let Some(own) = name_text.strip_prefix("grpc-metadata-") {
                take_own(own, value, &mut headers)?;
            } else if TRACE_CONTEXT.contains(&name_text) {
                headers.append(name.clone(), value.clone());
            } else if PERMANENT.contains(&name_text) && is_printable(value) {
                let prefixed = HeaderName::try_from(format!("grpcgateway-{name_text}"));
                headers.append(prefixed.expect("a field name with a prefix is one"), value.clone());
            }
        }
        headers.extend(forwarded_host(request).map(|host| (FORWARDED_HOST, host)));
        headers.extend(forwarded_for(request).map(|addresses| (FORWARDED_FOR, addresses)));
        if let Some(timeout) = timeout {
            headers.insert(grpc::TIMEOUT, grpc_timeout(timeout));
        }
        Ok(Metadata { headers, timeout })
    }
}

/// Takes over `Grpc-Metadata-<name>`.
fn take_own(name: &str, value: &HeaderValue, headers: &mut HeaderMap) -> Result<(), Status> {
    let is_key = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if RESERVED.contains(&name) || !name.bytes().all(is_key) {
        return Ok(());
    }
    let Ok(key) = HeaderName::try_from(name) else { return Ok(()) };
    if name.ends_with("-bin") {
        let bytes = decode_binary(value.as_bytes())
            .ok_or_else(|| Status::invalid_argument(format!("invalid binary header {name}: illegal base64 data")))?;
        let encoded = HeaderValue::try_from(STANDARD_NO_PAD.encode(bytes));
        headers.append(key, encoded.expect("base64 is printable"));
    } else if is_printable(value) {
        headers.append(key, value.clone());
    }
    Ok(())
}

fn decode_binary(text: &[u8]) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    LENIENT.decode(text).ok()
}

fn is_printable(value: &HeaderValue) -> bool {
    value.as_bytes().iter().all(|byte| (b' '..=b'~').contains(byte))
}

fn forwarded_host(request: &Request) -> Option<HeaderValue> {
    let given = request.headers().get(FORWARDED_HOST).filter(|host| !host.is_empty()).cloned();
    given.or_else(|| HeaderValue::from_str(host(request)).ok().filter(|host| !host.is_empty())).filter(is_printable)
}

/// The addresses the request came through so far, and the one it came from.
fn forwarded_for(request: &Request) -> Option<HeaderValue> {
    let given = request.headers().get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let mut addresses: Vec<String> = given.map(str::to_owned).collect();
    if let Some(peer) = request.extensions().get::<Peer>() {
        addresses.push(peer.address.ip().to_string());
    }
    (!addresses.is_empty()).then(|| HeaderValue::try_from(addresses.join(", ")).ok())?
}

/// Reads `Grpc-Timeout`, which allows more here than in gRPC: a sign and any number of digits.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(grpc::TIMEOUT).filter(|value| !value.is_empty()) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let nanoseconds =
        nanoseconds(&text).ok_or_else(|| Status::invalid_argument(format!("invalid grpc-timeout: {text}")))?;
    match nanoseconds {
        0 => Ok(None),
        _ => Ok(Some(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0)))),
    }
}

fn nanoseconds(text: &str) -> Option<i64> {
    let (amount, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit: i64 = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        "n" => 1,
        _ => return None,
    };
    let amount: i64 = amount.parse().ok()?;
    Some(amount.saturating_mul(unit))
}

/// A timeout in gRPC's form, which has room for eight digits: rounded up, so that the caller's own
/// clock is the first to end the call.
fn grpc_timeout(timeout: Duration) -> HeaderValue {
    const DIGITS_MAX: u128 = 99_999_999;
    let units = [("n", 1), ("u", 1_000), ("m", 1_000_000), ("S", 1_000_000_000), ("M", 60_000_000_000)];
    let nanoseconds = timeout.as_nanos();
    let fitting = units.into_iter().map(|(unit, size)| (unit, nanoseconds.div_ceil(size)));
    let (unit, amount) = fitting
        .into_iter()
        .find(|(_, amount)| *amount <= DIGITS_MAX)
        .unwrap_or(("H", nanoseconds.div_ceil(3_600_000_000_000)));
    HeaderValue::try_from(format!("{amount}{unit}")).expect("digits and a letter")
}

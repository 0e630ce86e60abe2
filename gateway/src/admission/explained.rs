//! What the policy in force would do to a request that somebody thinks of: `/forebay/v1/explain`.
//!
//! A dry run: nothing is charged, and nothing is sent.

use forebay_policies::{Client, Cost, Expected, Request, Rpc, explain, prefix};
use forebay_proto::KeyRange;

use super::Shared;

/// The mean size of objects of which only the number is said.
const OBJECT_BYTES: u64 = 1024;
/// The size of a request of which nothing is said.
const REQUEST_BYTES: u64 = 256;

impl Shared {
    /// The explanation, or what cannot be read of the query.
    pub(super) fn explain(&self, query: &str) -> Result<String, String> {
        let mut asked = Asked::default();
        for pair in pairs(query) {
            let (name, value) = pair?;
            asked.set(name, &value)?;
        }
        let keys: Vec<KeyRange> = match (asked.key.is_empty(), asked.prefix) {
            (true, _) => Vec::new(),
            (false, true) => vec![prefix::range(asked.key.as_bytes())],
            (false, false) => vec![KeyRange::new(asked.key.clone().into(), Default::default())],
        };
        let rpc = asked.rpc.unwrap_or(Rpc::Range);
        let writes = u32::from(rpc.kind() == forebay_policies::Kind::Write);
        let watchers = if writes > 0 { self.watched.lock().hear(keys.iter()) } else { 0 };
        let request =
            Request { keys: &keys, bytes: REQUEST_BYTES, writes, watchers, ..Request::new(&asked.client, rpc) };
        let expected = asked.objects.map(|objects| Expected { objects, object_bytes: asked.object_bytes });
        let loaded = self.loaded.load();
        Ok(explain::explain(&loaded.policy, &request, Cost::predict(&request, expected)).to_string())
    }
}

/// A request that nobody made.
struct Asked {
    client: Client,
    rpc: Option<Rpc>,
    key: String,
    prefix: bool,
    objects: Option<u64>,
    object_bytes: u64,
}

impl Default for Asked {
    fn default() -> Asked {
        Asked {
            client: Client::default(),
            rpc: None,
            key: String::new(),
            prefix: false,
            objects: None,
            object_bytes: OBJECT_BYTES,
        }
    }
}

impl Asked {
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let number = || value.parse::<u64>().map_err(|_| format!("{name}: {value:?} is no number"));
        match name {
            "client" if value.is_empty() => {}
            "client" => self.client = std::mem::take(&mut self.client).with(value)?,
            "rpc" => self.rpc = Some(value.parse::<Rpc>().map_err(|error| error.to_string())?),
            "key" => value.clone_into(&mut self.key),
            "prefix" => self.prefix = value == "true",
            "objects" if value.is_empty() => {}
            "objects" => self.objects = Some(number()?),
            "objectBytes" => self.object_bytes = number()?,
            other => return Err(format!("{other:?}: there is client, rpc, key, prefix, objects and objectBytes")),
        }
        Ok(())
    }
}

/// The names and values of a query.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = Result<(&str, String), String>> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((name, unescaped(value)?))
    })
}

/// A value of a query with its escapes resolved.
fn unescaped(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next()), digit(rest.next()));
                let value = high.zip(low).map(|(high, low)| high * 16 + low);
                value.and_then(|value| u8::try_from(value).ok()).ok_or("an escape is not two hexadecimal digits")?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| "a value is no text".to_owned())
}

#[cfg(test)]
mod tests {
    use forebay_policies::Policy;
    use prometheus::Registry;

    use crate::{Metrics, admission::Admission, config::AdmissionConfig};

    #[test]
    fn a_request_that_nobody_made_is_explained_and_nonsense_is_refused() {
        let metrics = Metrics::new(&Registry::new()).expect("fresh names");
        let config = AdmissionConfig { policy: Policy::builtin(), ..AdmissionConfig::default() };
        let admission = Admission::new(config, metrics.admission.clone());
        let explain = |query: &str| admission.0.explain(query);
        let text =
            explain("client=ip%3D10.0.0.1&rpc=Range&key=%2Fregistry%2Fpods%2F&prefix=true&objects=5000").unwrap();
        assert!(text.contains("rule"), "{text}");
        assert!(explain("").is_ok());
        for wrong in ["rpc=Rage", "client=nobody", "objects=many", "kye=a", "key=%zz", "key=%ff", "key=%"] {
            assert!(explain(wrong).is_err(), "{wrong}");
        }
    }
}

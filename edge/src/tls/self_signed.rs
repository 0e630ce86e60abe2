//! A certificate of our own making, for those who want encryption before they have an authority.

use std::{
    fs,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    time::SystemTime,
};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair as Key, KeyUsagePurpose, SanType};
use time::OffsetDateTime;

use super::{Error, KeyPair};

/// The certificate in `dir`, made if there is none: `cert.pem` and `key.pem`, where etcd has them too. It is good for
/// `hosts` and for the given years, and serves as a client's as well.
pub fn self_signed(dir: &Path, hosts: &[String], years: u64) -> Result<KeyPair, Error> {
    let pair = KeyPair { certificate: dir.join("cert.pem"), key: dir.join("key.pem") };
    if pair.certificate.exists() && pair.key.exists() {
        return Ok(pair);
    }
    let cannot_write = |path: &Path| {
        let path = path.to_owned();
        move |error| Error::Write { path, error }
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(cannot_write(dir))?;
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::OrganizationName, "etcd");
    params.not_before = OffsetDateTime::from(SystemTime::now());
    let days = i64::try_from(years.saturating_mul(365)).unwrap_or(i64::MAX);
    params.not_after =
        params.not_before.checked_add(time::Duration::days(days.min(365_000))).unwrap_or(params.not_before);
    params.key_usages = vec![KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = hosts
        .iter()
        .map(|host| {
            Ok(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(host.as_str().try_into()?),
            })
        })
        .collect::<Result<_, rcgen::Error>>()?;
    let key = Key::generate()?;
    let certificate = params.self_signed(&key)?;
    // The key first: a pair of which only the certificate was written is made anew.
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true);
    let mut write = |path: &Path, mode, text: String| {
        let written = options.mode(mode).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(cannot_write(path))
    };
    write(&pair.key, 0o600, key.serialize_pem())?;
    write(&pair.certificate, 0o644, certificate.pem())?;
    tracing::warn!(certificate = %pair.certificate.display(), "made a certificate that no authority signed");
    Ok(pair)
}

//! Who a certificate is for.

use std::{net::IpAddr, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::EndEntityCert;

/// Which of the certificates that an authority signed are let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allowed {
    /// All.
    #[default]
    Any,
    /// Those with one of these common names.
    CommonNames(Vec<String>),
    /// Those good for one of these host names or addresses.
    Hostnames(Vec<String>),
}

impl Allowed {
    fn allows(&self, certificate: &CertificateDer<'_>) -> bool {
        match self {
            Allowed::Any => true,
            Allowed::CommonNames(names) => common_name(certificate).is_some_and(|name| names.contains(&name)),
            Allowed::Hostnames(names) => names.iter().any(|name| is_good_for(certificate, name)),
        }
    }
}

/// The common name of a certificate's subject; of several, as in Go, the last.
pub(super) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    const OID: &[u8] = &[0x55, 0x04, 0x03];
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let mut found = None;
    // Name ::= SEQUENCE OF SET OF SEQUENCE { type, value }; the outermost wrapper is off already.
    for set in Elements(certificate.subject()) {
        for pair in Elements(set) {
            let mut parts = Elements(pair);
            if let (Some(OID), Some(value)) = (parts.next(), parts.next()) {
                found = str::from_utf8(value).ok().map(str::to_owned);
            }
        }
    }
    found.filter(|name| !name.is_empty())
}

/// The contents of DER elements that follow each other. Malformed ones end it: the certificate was verified before,
/// so there are none that matter.
struct Elements<'a>(&'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let [_tag, short, rest @ ..] = self.0 else { return None };
        let (len, rest) = match *short {
            short @ ..=0x7f => (usize::from(short), rest),
            0x81 => (usize::from(*rest.first()?), &rest[1..]),
            0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), &rest[2..]),
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some(content)
    }
}

fn is_good_for(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(name) = ServerName::try_from(name) else { return false };
    EndEntityCert::try_from(certificate)
        .is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(&name).is_ok())
}

/// Whether a server was refused for nothing but that its certificate is an authority's.
pub(super) fn is_authority_as_server(error: &rustls::Error) -> bool {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
        }
        _ => false,
    }
}

/// Verifies what is left to verify of a certificate that is trusted itself: its name and its time.
pub(super) fn verify_trusted(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let parsed = EndEntityCert::try_from(certificate).map_err(|_| CertificateError::BadEncoding)?;
    parsed.verify_is_valid_for_subject_name(name).map_err(|_| CertificateError::NotValidForName)?;
    let (begin, end) = validity(certificate).ok_or(CertificateError::BadEncoding)?;
    match now.as_secs() {
        now if now < begin => Err(CertificateError::NotValidYet.into()),
        now if now > end => Err(CertificateError::Expired.into()),
        _ => Ok(()),
    }
}

/// When a certificate is good, in seconds of Unix time.
fn validity(certificate: &CertificateDer<'_>) -> Option<(u64, u64)> {
    let mut fields = Elements(Elements(Elements(certificate).next()?).next()?);
    // Version, serial number, signature algorithm and issuer come first.
    let mut times = Elements(fields.nth(4)?);
    Some((unix_time(times.next()?)?, unix_time(times.next()?)?))
}

/// Reads `YYMMDDhhmmssZ` or, from 2050 on, `YYYYMMDDhhmmssZ`.
fn unix_time(text: &[u8]) -> Option<u64> {
    let digits = text.strip_suffix(b"Z")?;
    let (year, rest) = digits.split_at_checked(digits.len().checked_sub(10)?)?;
    let number = |digits: &[u8]| str::from_utf8(digits).ok()?.parse::<u8>().ok();
    let year = match year {
        [_, _] => match i32::from(number(year)?) {
            year @ 50.. => 1900 + year,
            year => 2000 + year,
        },
        [_, _, _, _] => 100 * i32::from(number(&year[..2])?) + i32::from(number(&year[2..])?),
        _ => return None,
    };
    let mut parts = rest.chunks(2).map(number);
    let mut part = || parts.next().flatten();
    let (month, day, hour, minute, second) = (part()?, part()?, part()?, part()?, part()?);
    let date = time::Date::from_calendar_date(year, time::Month::try_from(month).ok()?, day).ok()?;
    let time = date.with_hms(hour, minute, second).ok()?.assume_utc();
    u64::try_from(time.unix_timestamp()).ok()
}

/// Whether a certificate that names hosts or addresses names this one, by the rule that etcd's members follow among
/// themselves; a certificate without names is anyone's.
pub(super) async fn is_good_for_address(certificate: &CertificateDer<'_>, address: IpAddr) -> bool {
    // What came to us over IPv6's form of an IPv4 address is the IPv4 address.
    let address = address.to_canonical();
    if is_good_for(certificate, &address.to_string()) {
        return true;
    }
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return false };
    let hosts: Vec<String> = certificate.valid_dns_names().map(str::to_owned).collect();
    if hosts.is_empty() {
        return !has_addresses(&certificate);
    }
    for host in hosts.iter().filter(|host| !host.starts_with('*')) {
        if let Ok(mut resolved) = tokio::net::lookup_host((host.as_str(), 0)).await
            && resolved.any(|found| found.ip().to_canonical() == address)
        {
            return true;
        }
    }
    false
}

/// Whether the certificate names addresses. The library tells only what a certificate is good for, and names what it
/// is instead in the refusal.
fn has_addresses(certificate: &EndEntityCert<'_>) -> bool {
    let nobody = ServerName::IpAddress(IpAddr::from([0, 0, 0, 0]).into());
    match certificate.verify_is_valid_for_subject_name(&nobody) {
        Err(webpki::Error::CertNotValidForName(context)) => !context.presented.is_empty(),
        _ => true,
    }
}

/// Lets in what an authority signed and `allowed` allows.
#[derive(Debug)]
pub(super) struct AllowedOnly {
    pub(super) allowed: Allowed,
    pub(super) signed: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for AllowedOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.signed.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.signed.verify_client_cert(end_entity, intermediates, now)?;
        if self.allowed.allows(end_entity) {
            Ok(verified)
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

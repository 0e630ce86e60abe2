//! An authority that signs what a test asks for, good and bad, and keeps it in files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use forebay_edge::tls::KeyPair;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    date_time_ymd,
};

pub struct Authority {
    dir: PathBuf,
    issuer: CertifiedIssuer<'static, rcgen::KeyPair>,
}

/// What is signed.
#[derive(Clone)]
pub struct Wanted {
    pub common_name: &'static str,
    pub names: Vec<&'static str>,
    pub usages: Vec<ExtendedKeyUsagePurpose>,
    pub expired: bool,
    pub serial: u64,
}

impl Wanted {
    /// Good for either side of a connection on this machine.
    pub fn good(common_name: &'static str) -> Wanted {
        Wanted {
            common_name,
            names: vec!["localhost", "127.0.0.1"],
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            expired: false,
            serial: 1,
        }
    }
}

impl Authority {
    pub fn new(dir: &Path, name: &str) -> Authority {
        let dir = dir.join(name);
        fs::create_dir(&dir).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        fs::write(dir.join("ca.pem"), issuer.pem()).unwrap();
        Authority { dir, issuer }
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    pub fn crl(&self) -> PathBuf {
        self.dir.join("crl.pem")
    }

    pub fn sign(&self, file: &str, wanted: &Wanted) -> KeyPair {
        let names: Vec<String> = wanted.names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.remove(DnType::CommonName);
        if !wanted.common_name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, wanted.common_name);
        }
        params.extended_key_usages = wanted.usages.clone();
        params.serial_number = Some(SerialNumber::from(wanted.serial));
        if wanted.expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let issuer: &Issuer<'_, _> = &self.issuer;
        let certificate = params.signed_by(&key, issuer).unwrap();
        let pair =
            KeyPair { certificate: self.dir.join(format!("{file}.pem")), key: self.dir.join(format!("{file}.key")) };
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        fs::write(&pair.certificate, certificate.pem()).unwrap();
        pair
    }

    /// Takes the certificates of these serial numbers back, and no others.
    pub fn revoke(&self, serials: &[u64]) {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2020, 1, 2),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer: &Issuer<'_, _> = &self.issuer;
        fs::write(self.crl(), params.signed_by(issuer).unwrap().pem().unwrap()).unwrap();
    }
}

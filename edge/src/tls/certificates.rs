//! Reads what PEM files hold.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject},
};

use super::{Error, KeyPair};

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| Error::Read { path: path.to_owned(), error })
}

fn unusable(path: &Path, what: &'static str, reason: impl ToString) -> Error {
    Error::Unusable { path: path.to_owned(), what, reason: reason.to_string() }
}

/// The certificates of a file.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match read {
        Ok(found) if found.is_empty() => Err(Error::Missing { path: path.to_owned(), what: "certificate in PEM" }),
        Ok(found) => Ok(found),
        Err(error) => Err(unusable(path, "the certificates", error)),
    }
}

/// A certificate with those it comes with, and its key.
pub(super) fn key_pair(pair: &KeyPair) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let key = PrivateKeyDer::from_pem_slice(&read(&pair.key)?);
    let key = key.map_err(|error| unusable(&pair.key, "the private key", error))?;
    Ok((certificates(&pair.certificate)?, key))
}

/// The authorities of a file.
pub(super) fn authorities(path: &Path) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unusable(path, "an authority", error))?;
    }
    Ok(Arc::new(roots))
}

/// The authorities that the operating system trusts.
pub(super) fn system_authorities() -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if usable == 0 { Err(Error::NoAuthorities) } else { Ok(Arc::new(roots)) }
}

/// The revocation lists of a file: any number in PEM, or one in DER, which is all that etcd reads.
pub(super) fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, Error> {
    let bytes = read(path)?;
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    match lists {
        Ok(lists) if lists.is_empty() && bytes.is_empty() => {
            Err(Error::Missing { path: path.to_owned(), what: "revocation list" })
        }
        Ok(lists) if lists.is_empty() => Ok(vec![CertificateRevocationListDer::from(bytes)]),
        Ok(lists) => Ok(lists),
        Err(error) => Err(unusable(path, "the revocation lists", error)),
    }
}

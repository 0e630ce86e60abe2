use std::{fs, net::SocketAddr, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::*;

/// An authority that keeps what it signs in files.
struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, rcgen::KeyPair>,
}

/// What is signed.
struct Wanted<'a> {
    common_name: &'a str,
    names: &'a [&'a str],
    usage: ExtendedKeyUsagePurpose,
    expired: bool,
    serial: u64,
}

impl<'a> Wanted<'a> {
    fn server(names: &'a [&'a str]) -> Wanted<'a> {
        Wanted { common_name: "", names, usage: ExtendedKeyUsagePurpose::ServerAuth, expired: false, serial: 1 }
    }

    fn client(common_name: &'a str) -> Wanted<'a> {
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        Wanted { common_name, names: &[], usage, expired: false, serial: 2 }
    }
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { dir, issuer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    fn sign(&self, file: &str, wanted: &Wanted<'_>) -> KeyPair {
        let names: Vec<String> = wanted.names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.remove(DnType::CommonName);
        if !wanted.common_name.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, "forebay");
            params.distinguished_name.push(DnType::CommonName, wanted.common_name);
        }
        params.extended_key_usages = vec![wanted.usage.clone()];
        params.serial_number = Some(SerialNumber::from(wanted.serial));
        if wanted.expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let issuer: &Issuer<'_, _> = &self.issuer;
        let certificate = params.signed_by(&key, issuer).unwrap();
        let pair = KeyPair { certificate: self.path(&format!("{file}.pem")), key: self.path(&format!("{file}.key")) };
        fs::write(&pair.certificate, certificate.pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }

    fn revoke(&self, serials: &[u64]) -> Vec<u8> {
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
        params.signed_by(issuer).unwrap().der().to_vec()
    }
}

fn client(verify: Verify, identity: Option<KeyPair>) -> ClientOptions {
    ClientOptions { verify, identity, server_name: None, protocol: Protocol::default(), speaks: vec!["h2"] }
}

/// A handshake from that address, and a byte in each direction. What the server learned, and on whose side it broke.
async fn handshake_from(from: &str, acceptor: &Acceptor, connector: &Connector, host: &str) -> Result<Tls, String> {
    let (near, far) = duplex(64 << 10);
    let address: SocketAddr = from.parse().unwrap();
    let served = async {
        let (mut stream, tls) = acceptor.accept(far, address).await.map_err(|error| format!("server: {error}"))?;
        let byte = stream.read_u8().await.map_err(|error| format!("server: {error}"))?;
        stream.write_u8(byte + 1).await.unwrap();
        stream.flush().await.unwrap();
        Ok(tls)
    };
    let asked = async {
        let mut stream = connector.connect(near, host).await.map_err(|error| format!("client: {error}"))?;
        stream.write_u8(1).await.map_err(|error| format!("client: {error}"))?;
        let answer = stream.read_u8().await.map_err(|error| format!("client: {error}"))?;
        assert_eq!(answer, 2);
        Ok(())
    };
    match tokio::join!(served, asked) {
        (Ok(tls), Ok(())) => Ok(tls),
        (Err(error), Err(_)) | (Err(error), Ok(())) | (Ok(_), Err(error)) => Err(error),
    }
}

async fn handshake(acceptor: &Acceptor, connector: &Connector) -> Result<Tls, String> {
    handshake_from("127.0.0.1:1", acceptor, connector, "localhost").await
}

fn acceptor(options: ServerOptions) -> Acceptor {
    Acceptor::new(options).unwrap_or_else(|error| panic!("{error}"))
}

fn connector(options: ClientOptions) -> Connector {
    Connector::new(options).unwrap_or_else(|error| panic!("{error}"))
}

/// A port that wants certificates of `authority`.
fn asking(authority: &Authority) -> ServerOptions {
    let identity = authority.sign("server", &Wanted::server(&["localhost", "127.0.0.1"]));
    ServerOptions { client_authorities: Some(authority.ca()), ..ServerOptions::new(identity) }
}

#[tokio::test]
async fn who_shows_which_certificate_is_let_in_as_whom() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    fs::write(ours.path("crl"), ours.revoke(&[66])).unwrap();
    let asks = ServerOptions { revoked: Some(ours.path("crl")), ..asking(&ours) };
    let asks_nothing = ServerOptions { client_authorities: None, revoked: None, ..asks.clone() };
    let expired = Wanted { expired: true, ..Wanted::client("late") };
    let wrong_use = Wanted { usage: ExtendedKeyUsagePurpose::ServerAuth, ..Wanted::client("server") };
    let shown = [
        ("no certificate", None, Err("server: peer sent no certificates")),
        ("a good one", Some(ours.sign("good", &Wanted::client("alice"))), Ok(Some("alice"))),
        ("one without a common name", Some(ours.sign("nobody", &Wanted::client(""))), Ok(None)),
        ("one of another authority", Some(theirs.sign("other", &Wanted::client("alice"))), Err("UnknownIssuer")),
        ("an expired one", Some(ours.sign("late", &expired)), Err("certificate expired")),
        ("a revoked one", Some(ours.sign("bad", &Wanted { serial: 66, ..Wanted::client("eve") })), Err("Revoked")),
        ("a server's", Some(ours.sign("use", &wrong_use)), Err("certificate does not allow extended key usage")),
    ];
    for (what, identity, expected) in shown {
        let connector = connector(client(Verify::Authorities(ours.ca()), identity));
        let found = handshake(&acceptor(asks.clone()), &connector).await;
        match expected {
            Ok(name) => assert_eq!(found, Ok(Tls { common_name: name.map(str::to_owned) }), "{what}"),
            Err(reason) => assert!(found.as_ref().is_err_and(|e| e.contains(reason)), "{what}: {found:?}"),
        }
        let unasked = handshake(&acceptor(asks_nothing.clone()), &connector).await;
        assert_eq!(unasked, Ok(Tls { common_name: None }), "{what}, where none is asked for");
    }
}

#[tokio::test]
async fn of_those_that_are_signed_only_the_allowed_are_let_in() {
    let ours = Authority::new("ours");
    let named = Wanted { names: &["m1.example", "10.0.0.1"], ..Wanted::client("m1") };
    let connector = connector(client(Verify::Authorities(ours.ca()), Some(ours.sign("m1", &named))));
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    for (allowed, is_let_in) in [
        (Allowed::CommonNames(names(&["m0", "m1"])), true),
        (Allowed::CommonNames(names(&["m0"])), false),
        (Allowed::Hostnames(names(&["m1.example"])), true),
        (Allowed::Hostnames(names(&["10.0.0.1"])), true),
        (Allowed::Hostnames(names(&["m1", "10.0.0.2"])), false),
    ] {
        let acceptor = acceptor(ServerOptions { allowed: allowed.clone(), ..asking(&ours) });
        assert_eq!(handshake(&acceptor, &connector).await.is_ok(), is_let_in, "{allowed:?}");
    }
}

#[tokio::test]
async fn a_certificate_that_names_addresses_comes_from_one_of_them_where_that_is_asked() {
    let ours = Authority::new("ours");
    let acceptor = acceptor(ServerOptions { check_address: true, ..asking(&ours) });
    for (names, from, is_let_in) in [
        (&[][..], "10.0.0.9:1", true),
        (&["10.0.0.1"], "10.0.0.1:1", true),
        (&["10.0.0.1"], "[::ffff:10.0.0.1]:1", true),
        (&["10.0.0.1"], "10.0.0.9:1", false),
        (&["localhost"], "127.0.0.1:1", true),
        (&["localhost"], "10.0.0.9:1", false),
        (&["10.0.0.1", "localhost"], "127.0.0.1:1", true),
    ] {
        let identity = ours.sign("m", &Wanted { names, ..Wanted::client("m") });
        let connector = connector(client(Verify::Authorities(ours.ca()), Some(identity)));
        let found = handshake_from(from, &acceptor, &connector, "localhost").await;
        assert_eq!(found.is_ok(), is_let_in, "{names:?} from {from}: {found:?}");
    }
}

#[tokio::test]
async fn a_server_is_verified_by_authority_and_name_unless_that_is_switched_off_by_name() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let acceptor = acceptor(ServerOptions::new(ours.sign("s", &Wanted::server(&["etcd.example", "10.0.0.1", "::1"]))));
    let named = |verify: Verify, name: Option<&str>| {
        connector(ClientOptions { server_name: name.map(str::to_owned), ..client(verify, None) })
    };
    let trusting = Verify::Authorities(ours.ca());
    for (connector, host, is_believed) in [
        (named(trusting.clone(), None), "etcd.example", true),
        (named(trusting.clone(), None), "10.0.0.1", true),
        (named(trusting.clone(), None), "[::1]", true),
        (named(trusting.clone(), None), "other.example", false),
        (named(trusting.clone(), Some("etcd.example")), "other.example", true),
        (named(trusting, Some("wrong.example")), "etcd.example", false),
        (named(Verify::Authorities(theirs.ca()), None), "etcd.example", false),
        (named(Verify::InsecureSkip, None), "other.example", true),
    ] {
        let found = handshake_from("127.0.0.1:1", &acceptor, &connector, host).await;
        assert_eq!(found.is_ok(), is_believed, "{host}: {found:?}");
    }
    let no_name = ClientOptions { server_name: Some("not a name".to_owned()), ..client(Verify::InsecureSkip, None) };
    assert!(matches!(Connector::new(no_name), Err(Error::ServerName(_))));
}

#[tokio::test]
async fn an_authority_that_serves_itself_is_believed_where_it_is_trusted_by_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, years: (i32, i32)| {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let path = |kind: &str| dir.path().join(format!("{name}.{kind}"));
        let pair = KeyPair { certificate: path("pem"), key: path("key") };
        fs::write(&pair.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    };
    let (good, long) = (make("good", (2001, 2049)), make("long", (2001, 2120)));
    let (late, other) = (make("late", (2001, 2002)), make("other", (2001, 2049)));
    for (what, serves, trusts, host, is_believed) in [
        ("a good one", &good, &good, "localhost", true),
        ("one that is good for long", &long, &long, "localhost", true),
        ("one for another name", &good, &good, "other", false),
        ("an expired one", &late, &late, "localhost", false),
        ("one that nobody trusts", &other, &good, "localhost", false),
    ] {
        let acceptor = acceptor(ServerOptions::new(serves.clone()));
        let connector = connector(client(Verify::Authorities(trusts.certificate.clone()), None));
        let found = handshake_from("127.0.0.1:1", &acceptor, &connector, host).await;
        assert_eq!(found.is_ok(), is_believed, "{what}: {found:?}");
    }
}

#[tokio::test]
async fn versions_and_suites_are_those_of_the_flags() {
    let ours = Authority::new("ours");
    let identity = ours.sign("server", &Wanted::server(&["localhost"]));
    let protocol = |min, max, suites: &[&str]| Protocol {
        min,
        max,
        cipher_suites: suites.iter().map(|&suite| suite.to_owned()).collect(),
    };
    let (old, new) = (Version::Tls12, Version::Tls13);
    const GOOD: &str = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
    const OTHER: &str = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305";
    for (server, wants, agree) in [
        (protocol(old, None, &[]), protocol(old, Some(old), &[]), true),
        (protocol(old, None, &[]), protocol(new, None, &[]), true),
        (protocol(new, None, &[]), protocol(old, Some(old), &[]), false),
        (protocol(old, Some(old), &[]), protocol(new, None, &[]), false),
        (protocol(old, Some(old), &[GOOD]), protocol(old, Some(old), &[GOOD, OTHER]), true),
        (protocol(old, Some(old), &[GOOD]), protocol(old, Some(old), &[OTHER]), false),
        // Suites are a matter of TLS 1.2 alone.
        (protocol(old, None, &[GOOD]), protocol(new, None, &["TLS_AES_256_GCM_SHA384"]), true),
    ] {
        let acceptor = acceptor(ServerOptions { protocol: server.clone(), ..ServerOptions::new(identity.clone()) });
        let options = ClientOptions { protocol: wants.clone(), ..client(Verify::Authorities(ours.ca()), None) };
        assert_eq!(handshake(&acceptor, &connector(options)).await.is_ok(), agree, "{server:?} and {wants:?}");
    }
    let refused = |suite| {
        let protocol = protocol(old, None, &[suite]);
        Acceptor::new(ServerOptions { protocol, ..ServerOptions::new(identity.clone()) }).err().map(|e| e.to_string())
    };
    assert_eq!(refused("TLS_NULL").as_deref(), Some("unexpected TLS cipher suite \"TLS_NULL\""));
    for weak in ["TLS_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA"] {
        assert!(refused(weak).is_some_and(|text| text.contains("is not supported here")), "{weak}");
    }
}

#[tokio::test]
async fn changed_files_count_from_the_next_handshake_on_and_broken_ones_never() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let good = ours.sign("client", &Wanted { serial: 7, ..Wanted::client("alice") });
    fs::write(ours.path("crl"), ours.revoke(&[])).unwrap();
    let options = ServerOptions { revoked: Some(ours.path("crl")), ..asking(&ours) };
    let identity = options.identity.clone();
    let acceptor = acceptor(options);
    let trusting = |authority: &Authority| connector(client(Verify::Authorities(authority.ca()), Some(good.clone())));
    let (trusts_ours, trusts_theirs) = (trusting(&ours), trusting(&theirs));
    assert!(handshake(&acceptor, &trusts_ours).await.is_ok());

    let renewed = theirs.sign("server", &Wanted::server(&["localhost"]));
    fs::write(&identity.certificate, "half a certificate").unwrap();
    assert!(handshake(&acceptor, &trusts_ours).await.is_ok(), "what was there before stays");
    fs::rename(&renewed.certificate, &identity.certificate).unwrap();
    assert!(handshake(&acceptor, &trusts_ours).await.is_ok(), "a certificate without its key is of no use");
    fs::rename(&renewed.key, &identity.key).unwrap();
    assert!(handshake(&acceptor, &trusts_ours).await.is_err());
    assert!(handshake(&acceptor, &trusts_theirs).await.is_ok());

    fs::write(ours.path("crl"), ours.revoke(&[7])).unwrap();
    assert!(handshake(&acceptor, &trusts_theirs).await.is_err(), "a session is not resumed past its revocation");
    fs::remove_file(ours.path("crl")).unwrap();
    assert!(handshake(&acceptor, &trusts_theirs).await.is_err(), "a list that is gone takes nothing back");
    fs::write(ours.path("crl"), ours.revoke(&[8])).unwrap();
    assert!(handshake(&acceptor, &trusts_theirs).await.is_ok());
}

#[tokio::test]
async fn a_certificate_of_our_own_making_is_made_once_and_can_be_trusted_by_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let fixtures = dir.path().join("fixtures").join("client");
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let pair = self_signed(&fixtures, &hosts, 1).unwrap();
    let made = fs::read(&pair.certificate).unwrap();
    assert_eq!(self_signed(&fixtures, &hosts, 1).unwrap(), pair);
    assert_eq!(fs::read(&pair.certificate).unwrap(), made);
    let mode =
        |path: &Path| std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions()) & 0o777;
    assert_eq!((mode(&fixtures), mode(&pair.key)), (0o700, 0o600));

    let acceptor = acceptor(ServerOptions::new(pair.clone()));
    let connector = connector(client(Verify::Authorities(pair.certificate), None));
    for host in ["localhost", "127.0.0.1"] {
        let found = handshake_from("127.0.0.1:1", &acceptor, &connector, host).await;
        assert!(found.is_ok(), "{host}: {found:?}");
    }
    assert!(handshake_from("127.0.0.1:1", &acceptor, &connector, "other").await.is_err());
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let ours = Authority::new("ours");
    let pair = ours.sign("server", &Wanted::server(&["localhost"]));
    fs::write(ours.path("empty"), "").unwrap();
    let text = |options: ServerOptions| match Acceptor::new(options) {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string().replace(&ours.dir.path().display().to_string(), "DIR"),
    };
    let with = |certificate: &str, key: &str| {
        ServerOptions::new(KeyPair { certificate: ours.path(certificate), key: ours.path(key) })
    };
    assert_eq!(
        text(with("none.pem", "server.key")),
        "cannot read DIR/none.pem: No such file or directory (os error 2)"
    );
    assert_eq!(text(with("empty", "server.key")), "DIR/empty holds no certificate in PEM");
    assert!(text(with("server.pem", "empty")).starts_with("cannot use the private key of DIR/empty: "));
    ours.sign("other", &Wanted::server(&["localhost"]));
    assert_eq!(
        text(with("server.pem", "other.key")),
        "cannot use the certificate of DIR/server.pem: keys may not be consistent: KeyMismatch"
    );
    let revoked = Some(ours.path("server.key"));
    let text = text(ServerOptions { revoked, client_authorities: Some(ours.ca()), ..ServerOptions::new(pair) });
    assert!(text.starts_with("cannot use the authorities or revocation lists of DIR/server.key: "), "{text}");
}

//! What the binary is built of: no library older than the version in which RustSec's advisories about it are closed.

/// Library, and its first good version, as of August 2026. What is not in the lock file needs none.
const FLOORS: [(&str, &str); 9] = [
    ("h2", "0.4.16"),
    ("tonic", "0.12.3"),
    ("rustls", "0.23.18"),
    ("rustls-webpki", "0.103.13"),
    ("bytes", "1.11.1"),
    ("bcrypt", "0.19.2"),
    ("tungstenite", "0.20.1"),
    ("lru", "0.18.2"),
    ("crossbeam-channel", "0.5.15"),
];

/// The numbers of a version; of a release before it, less.
fn numbers(version: &str) -> Vec<u64> {
    let (release, is_before) = version.split_once('-').map_or((version, 1), |(release, _)| (release, 0));
    let release = release.split('+').next().expect("a version");
    release.split('.').map(|part| part.parse().expect("a number")).chain([is_before]).collect()
}

/// Those of a lock file that are older than they may be.
fn too_old(lock: &str) -> Vec<String> {
    let mut found = Vec::new();
    for package in lock.split("[[package]]") {
        let field = |name: &str| {
            package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"'))
        };
        let (Some(name), Some(version)) = (field("name"), field("version")) else { continue };
        let floor = FLOORS.iter().find(|(library, _)| *library == name);
        if floor.is_some_and(|(_, floor)| numbers(version) < numbers(floor)) {
            found.push(format!("{name} {version}"));
        }
    }
    found
}

#[test]
fn no_library_is_older_than_the_version_that_closes_its_advisories() {
    let lock = include_str!("../../Cargo.lock");
    assert_eq!(too_old(lock), Vec::<String>::new());
    for library in ["h2", "tonic", "rustls", "rustls-webpki", "bytes", "bcrypt"] {
        assert!(lock.contains(&format!("name = \"{library}\"\n")), "{library} is looked at");
    }
    let old =
        "[[package]]\nname = \"h2\"\nversion = \"0.4.9\"\n[[package]]\nname = \"bytes\"\nversion = \"1.11.1-rc.1\"\n";
    assert_eq!(too_old(old), ["h2 0.4.9", "bytes 1.11.1-rc.1"]);
}

//! The buckets of a db file, printed as etcd-dump-db prints them.

use std::path::Path;

use forebay_proto::{authpb, leasepb, mvccpb::KeyValue};
use forebay_storage::{
    db::{self, Db, ReadTxn},
    disk::OsDisk,
    schema::{self, RevisionKey},
};
use prost::Message as _;

use crate::{Error, Result, gotext::quote, prototext};

/// The names of all buckets, a line each.
pub fn list(db: &Db) -> Result<String> {
    let names = db.begin_read().buckets()?;
    Ok(names.iter().map(|name| format!("{}\n", String::from_utf8_lossy(name))).collect())
}

/// What `hash` prints: of all that members must have alike, but for a mark of ours that etcd takes for such.
pub fn hash(db: &Db, path: &Path) -> Result<String> {
    let hash = schema::hash_as_dumped(&db.begin_read())?;
    Ok(format!("db path: {}\nHash: {hash}\n", path.display()))
}

/// Prints the entries of a bucket, the last first. `limit` 0 prints all; `print` gets a line at a time.
pub fn iterate(
    txn: &ReadTxn,
    bucket: &str,
    limit: u64,
    decode: bool,
    print: &mut dyn FnMut(String) -> Result<()>,
) -> Result<()> {
    let Some(entries) = txn.bucket(bucket.as_bytes())? else {
        let names: Vec<_> = txn.buckets()?.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        return Err(Error::refused_with(
            format!("got nil bucket for {bucket}"),
            format!("there is {}", names.join(", ")),
        ));
    };
    let mut entries = entries.backward();
    let mut left = if limit == 0 { u64::MAX } else { limit };
    while left > 0
        && let Some(entry) = entries.next_entry()?
    {
        left -= 1;
        let decoded = if decode { decoded(bucket, entry.key, entry.value)? } else { None };
        print(decoded.unwrap_or_else(|| raw(entry.key, entry.value)))?;
    }
    Ok(())
}

/// Prints the versions from `start` on that stand on any leaf page of a file, in use or not, damaged or not: what can be
/// saved when nothing else opens it. What does not parse goes to `complain`.
pub fn scan_keys(
    path: &Path,
    start: i64,
    print: &mut dyn FnMut(String) -> Result<()>,
    complain: &mut dyn FnMut(String),
) -> Result<()> {
    let mut leaves = db::Leaves::open(&OsDisk, path)?;
    while let Some(leaf) = leaves.next_leaf()? {
        let leaf = match leaf {
            Ok(leaf) => leaf,
            Err(error) => {
                complain(format!("{error}. Continuing..."));
                continue;
            }
        };
        for (index, (key, value)) in leaf.entries().enumerate() {
            let (page, last) = (leaf.id(), leaf.len() - 1);
            match RevisionKey::parse(key) {
                Some((main, _, _)) if start != 0 && main < start => {}
                Some(_) => match decoded("key", key, value) {
                    Ok(Some(text)) => print(format!("pageID={page}, index={index}/{last}, {text}"))?,
                    _ => complain(format!("Decoding version failed, pageID: {page}, index: {index}")),
                },
                // The page of another bucket.
                None => break,
            }
        }
    }
    Ok(())
}

fn raw(key: &[u8], value: &[u8]) -> String {
    format!("key={}, value={}", quote(key), quote(value))
}

/// An entry in words, in buckets that have any.
fn decoded(bucket: &str, key: &[u8], value: &[u8]) -> Result<Option<String>> {
    let wrong = || Error::refused(format!("bucket {bucket}: {} does not decode", raw(key, value)));
    Ok(Some(match bucket {
        "key" => {
            let (main, sub, tombstone) = RevisionKey::parse(key).ok_or_else(wrong)?;
            let record = KeyValue::decode(value).map_err(|_| wrong())?;
            format!(
                "rev={{Revision:{{Main:{main} Sub:{sub}}} tombstone:{tombstone}}}, value=[key {} | val {} | created {} | \
                 mod {} | ver {}]",
                quote(&record.key),
                quote(&record.value),
                record.create_revision,
                record.mod_revision,
                record.version
            )
        }
        "lease" => {
            let id = i64::from_be_bytes(key.try_into().map_err(|_| wrong())?);
            let lease = leasepb::Lease::decode(value).map_err(|_| wrong())?;
            format!("lease ID={id:016x}, TTL={}s, remaining TTL={}s", lease.ttl, lease.remaining_ttl)
        }
        "auth" if key == b"authRevision" => format!("key={}, value={}", quote(key), number(value).ok_or_else(wrong)?),
        "auth" => {
            let bytes: Vec<String> = value.iter().map(u8::to_string).collect();
            format!("key={}, value=[{}]", quote(key), bytes.join(" "))
        }
        "authRoles" => {
            let role = authpb::Role::decode(value).map_err(|_| wrong())?;
            let permission = |permission: &authpb::Permission| {
                prototext::print("authpb.Permission", &permission.encode_to_vec()).unwrap_or_default()
            };
            let permissions: Vec<String> = role.key_permission.iter().map(permission).collect();
            format!("role={}, keyPermission=[{}]", quote(&role.name), permissions.join(" "))
        }
        "authUsers" => {
            let user = authpb::User::decode(value).map_err(|_| wrong())?;
            let roles: Vec<String> = user.roles.iter().map(|role| quote(role.as_bytes())).collect();
            let options = user.options.map_or("<nil>".to_owned(), |options| {
                prototext::print("authpb.UserAddOptions", &options.encode_to_vec()).unwrap_or_default()
            });
            format!("user={}, roles=[{}], option={options}", quote(&user.name), roles.join(" "))
        }
        "meta" => match key {
            b"consistent_index" | b"term" => {
                format!("key={}, value={}", quote(key), number(value).ok_or_else(wrong)?)
            }
            b"scheduledCompactRev" | b"finishedCompactRev" => {
                let (main, sub, _) = RevisionKey::parse(value).ok_or_else(wrong)?;
                format!("key={}, value={{{main} {sub}}}", quote(key))
            }
            _ => return Ok(None),
        },
        _ => return Ok(None),
    }))
}

fn number(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(bucket: &str, key: &[u8], value: &[u8]) -> String {
        decoded(bucket, key, value).unwrap().unwrap_or_else(|| raw(key, value))
    }

    #[test]
    fn entries_read_as_etcd_dump_db_prints_them() {
        let record =
            KeyValue { key: "a".into(), value: "1".into(), create_revision: 2, mod_revision: 2, version: 1, lease: 0 };
        assert_eq!(
            words("key", &RevisionKey::new(2, 0, false), &record.encode_to_vec()),
            "rev={Revision:{Main:2 Sub:0} tombstone:false}, value=[key \"a\" | val \"1\" | created 2 | mod 2 | ver 1]"
        );
        let lease = leasepb::Lease { id: 0x01b4, ttl: 600, remaining_ttl: 0 };
        let expected = "lease ID=00000000000001b4, TTL=600s, remaining TTL=0s";
        assert_eq!(words("lease", &0x01b4i64.to_be_bytes(), &lease.encode_to_vec()), expected);
        assert_eq!(words("auth", b"authEnabled", &[1]), "key=\"authEnabled\", value=[1]");
        assert_eq!(words("auth", b"authRevision", &7u64.to_be_bytes()), "key=\"authRevision\", value=7");
        assert_eq!(words("meta", b"term", &2u64.to_be_bytes()), "key=\"term\", value=2");
        let revision = RevisionKey::new(3, 0, false);
        assert_eq!(words("meta", b"finishedCompactRev", &revision), "key=\"finishedCompactRev\", value={3 0}");
        assert_eq!(words("meta", b"storageVersion", b"3.7.0"), "key=\"storageVersion\", value=\"3.7.0\"");
        let role = authpb::Role {
            name: "r".into(),
            key_permission: vec![authpb::Permission { perm_type: 2, key: "/a".into(), range_end: "/b".into() }],
        };
        let expected = r#"role="r", keyPermission=[permType:READWRITE key:"/a" range_end:"/b"]"#;
        assert_eq!(words("authRoles", b"r", &role.encode_to_vec()), expected);
        let user = authpb::User {
            name: "root".into(),
            roles: vec!["r".into(), "root".into()],
            options: Some(authpb::UserAddOptions { no_password: false }),
            ..Default::default()
        };
        assert_eq!(words("authUsers", b"root", &user.encode_to_vec()), r#"user="root", roles=["r" "root"], option="#);
    }

    #[test]
    fn what_does_not_decode_is_refused_and_not_guessed() {
        for (bucket, key, value) in [
            ("key", &b"x"[..], &b""[..]),
            ("lease", b"1234", b""),
            ("auth", b"authRevision", b"1"),
            ("meta", b"term", b""),
        ] {
            assert!(decoded(bucket, key, value).is_err(), "{bucket}");
        }
    }
}

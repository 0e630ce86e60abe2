//! `snapshot status`: a file in five facts.

use std::path::Path;

use forebay_storage::schema::{self, Status};
use serde::Serialize;

use crate::{Error, Result, files, gotext, table::Facts};

/// etcd's JSON of a status.
#[derive(Serialize)]
struct Json<'s> {
    hash: u32,
    revision: i64,
    #[serde(rename = "totalKey")]
    total_key: usize,
    #[serde(rename = "totalSize")]
    total_size: u64,
    version: &'s str,
}

/// Reads through a snapshot or a db file that no member uses, every page checked. Takes memory for each live key.
pub fn status(path: &Path) -> Result<Status> {
    let db = files::open_read_only(path, std::time::Duration::from_millis(1))?;
    schema::read_status(&db.begin_read()).map_err(Error::schema(path))
}

/// A status as etcdutl prints it.
#[must_use]
pub fn facts(status: &Status) -> Facts {
    let version = status.version.clone().unwrap_or_default();
    let json = Json {
        hash: status.hash,
        revision: status.revision,
        total_key: status.total_keys,
        total_size: status.total_size,
        version: &version,
    };
    Facts {
        json: serde_json::to_string(&json).expect("five fields always serialize"),
        head: vec!["hash", "revision", "total keys", "total size", "version"],
        row: vec![
            format!("{:x}", status.hash),
            status.revision.to_string(),
            status.total_keys.to_string(),
            gotext::humane_bytes(status.total_size),
            version.clone(),
        ],
        fields: vec![
            ("Hash", status.hash.to_string()),
            ("Revision", status.revision.to_string()),
            ("Keys", status.total_keys.to_string()),
            ("Size", status.total_size.to_string()),
            ("Version", version),
        ],
    }
}

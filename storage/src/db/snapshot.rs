//! A copy of the database as a stream, as `etcdctl snapshot save` receives it.

use std::io::{self, Read};

use super::meta::META_LENGTH;
use super::read::ReadTxn;

/// A consistent copy of one state of the file, read in chunks of any size while writes go on.
///
/// It begins with two meta pages made for it: page 0 with the state's transaction id, page 1 with the one before,
/// whatever their parity, as bbolt writes copies. The pages that follow are those of the file; the free ones among them
/// have no meaning.
#[derive(Debug)]
pub struct SnapshotReader {
    txn: ReadTxn,
    metas: Vec<u8>,
    position: u64,
}

impl SnapshotReader {
    pub(super) fn new(txn: ReadTxn) -> Self {
        let page_size = txn.meta.page_size;
        let mut metas = vec![0; page_size.max(META_LENGTH) * 2];
        for (id, page) in metas.chunks_exact_mut(page_size).enumerate() {
            let mut meta = txn.meta;
            // A new file whose second meta page is damaged is at 0.
            meta.txid = meta.txid.saturating_sub(id as u64);
            meta.write(id as u64, page);
        }
        Self { txn, metas, position: 0 }
    }

    /// How many bytes the whole stream has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.txn.size()
    }

    /// How many bytes are still to be read.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.size() - self.position
    }

    /// The state that is copied, for reading from it.
    #[must_use]
    pub fn txn(&self) -> &ReadTxn {
        &self.txn
    }

    /// Copies what remains to `writer` in large chunks.
    pub fn copy_to(&mut self, writer: &mut dyn io::Write) -> io::Result<u64> {
        const CHUNK: usize = 1 << 20;
        let mut chunk = vec![0; CHUNK.min(usize::try_from(self.remaining()).unwrap_or(CHUNK))];
        let mut copied = 0;
        loop {
            let length = self.read(&mut chunk)?;
            if length == 0 {
                return Ok(copied);
            }
            writer.write_all(&chunk[..length])?;
            copied += length as u64;
        }
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let metas = self.metas.get(self.position as usize..).unwrap_or(&[]);
        let length = if metas.is_empty() {
            let length = usize::try_from(self.remaining()).unwrap_or(usize::MAX).min(buffer.len());
            self.txn.store.read(&mut buffer[..length], self.position).map_err(io::Error::other)?;
            length
        } else {
            let length = metas.len().min(buffer.len());
            buffer[..length].copy_from_slice(&metas[..length]);
            length
        };
        self.position += length as u64;
        Ok(length)
    }
}

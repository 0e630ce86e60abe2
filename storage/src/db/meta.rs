//! The two meta pages: where the tree begins, how far the file reaches, and which commit this is.
//!
//! Bytes of a meta page, little-endian, after the 16 bytes of page header:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic, 0xED0CDAED |
//! | 4 | 4 | version, 2 |
//! | 8 | 4 | page size |
//! | 12 | 4 | flags, 0 |
//! | 16 | 8 | root page of the root bucket |
//! | 24 | 8 | sequence of the root bucket |
//! | 32 | 8 | freelist page, or 2^64-1 for none |
//! | 40 | 8 | high-water page: every page id is below it |
//! | 48 | 8 | transaction id |
//! | 56 | 8 | FNV-1a 64 of the 56 bytes before |

use super::error::Flaw;
use super::page::{self, Header};

/// The freelist page of a file that has none; etcd's files never have one.
pub(super) const NO_FREELIST: u64 = u64::MAX;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const CHECKSUMMED: usize = 56;
/// Page header and meta fields.
pub(super) const META_LENGTH: usize = page::HEADER + 64;

/// bbolt writes pages of the operating system's size; these are all there are, with room on both sides.
const PAGE_SIZES: std::ops::RangeInclusive<usize> = 1024..=65536;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) page_size: usize,
    pub(super) root: u64,
    pub(super) sequence: u64,
    pub(super) freelist: u64,
    /// Invariant: every page of the tree, overflow included, lies below.
    pub(super) high_water: u64,
    pub(super) txid: u64,
}

impl Meta {
    /// The bytes of the file that these pages reach to: what etcd reports as the size of the database.
    pub(super) fn size(&self) -> u64 {
        self.high_water * self.page_size as u64
    }

    /// Reads a meta page from its first bytes.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Flaw> {
        let Some(fields) = bytes.get(page::HEADER..META_LENGTH) else {
            return Err(Flaw::new("a meta page", format!("{} bytes", bytes.len())));
        };
        let u32_at = |at: usize| page::u32_at(fields, at);
        let u64_at = |at: usize| page::u64_at(fields, at);
        if u32_at(0) != MAGIC {
            return Err(Flaw::new("magic 0xed0cdaed", format!("{:#010x}", u32_at(0))));
        }
        if u32_at(4) != VERSION {
            return Err(Flaw::new("version 2", format!("version {}", u32_at(4))));
        }
        let sum = fnv1a(&fields[..CHECKSUMMED]);
        if u64_at(56) != sum {
            return Err(Flaw::new("a matching checksum", format!("{:#018x}, computed {sum:#018x}", u64_at(56))));
        }
        let page_size = u32_at(8) as usize;
        if !PAGE_SIZES.contains(&page_size) || !page_size.is_power_of_two() {
            return Err(Flaw::new("a page size of 1 to 64 KiB", page_size.to_string()));
        }
        let meta = Self {
            page_size,
            root: u64_at(16),
            sequence: u64_at(24),
            freelist: u64_at(32),
            high_water: u64_at(40),
            txid: u64_at(48),
        };
        // The bound keeps every later `page * page_size` inside a file offset.
        if meta.high_water < 4 || meta.high_water > i64::MAX as u64 / page_size as u64 {
            return Err(Flaw::new("a high-water page inside a file", meta.high_water.to_string()));
        }
        Ok(meta)
    }

    /// Writes the meta page with number `id` into the first bytes of `out`.
    pub(super) fn write(&self, id: u64, out: &mut [u8]) {
        Header { id, flags: page::META, count: 0, overflow: 0 }.write(out);
        let fields = &mut out[page::HEADER..META_LENGTH];
        fields[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        fields[4..8].copy_from_slice(&VERSION.to_le_bytes());
        fields[8..12].copy_from_slice(&(self.page_size as u32).to_le_bytes());
        fields[12..16].fill(0);
        let words = [self.root, self.sequence, self.freelist, self.high_water, self.txid];
        for (word, field) in words.iter().zip(fields[16..CHECKSUMMED].chunks_exact_mut(8)) {
            field.copy_from_slice(&word.to_le_bytes());
        }
        let sum = fnv1a(&fields[..CHECKSUMMED]);
        fields[CHECKSUMMED..].copy_from_slice(&sum.to_le_bytes());
    }
}

/// The first four pages of a new file, as bbolt writes them: two metas, an empty freelist, an empty root leaf.
pub(super) fn fresh_image(page_size: usize) -> Vec<u8> {
    let mut image = vec![0; page_size * 4];
    for (id, bytes) in image.chunks_exact_mut(page_size).enumerate() {
        match id as u64 {
            txid @ (0 | 1) => {
                Meta { page_size, root: 3, sequence: 0, freelist: 2, high_water: 4, txid }.write(txid, bytes);
            }
            id @ 2 => Header { id, flags: page::FREELIST, count: 0, overflow: 0 }.write(bytes),
            id => Header { id, flags: page::LEAF, count: 0, overflow: 0 }.write(bytes),
        }
    }
    image
}

/// Whether a file that has no valid meta page is one whose creation was cut short: it holds no sector but those of
/// [`fresh_image`] and empty ones, so nothing was ever committed to it.
pub(super) fn is_torn_creation(content: &[u8], page_size: usize) -> bool {
    const SECTOR: usize = 512;
    let image = fresh_image(page_size);
    content.len() <= image.len()
        && content
            .chunks(SECTOR)
            .zip(image.chunks(SECTOR))
            .all(|(found, fresh)| found == &fresh[..found.len()] || found.iter().all(|byte| *byte == 0))
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_page_reads_back_as_written() {
        let meta = Meta { page_size: 4096, root: 7, sequence: 9, freelist: NO_FREELIST, high_water: 12, txid: 77 };
        let mut bytes = vec![0; 4096];
        meta.write(1, &mut bytes);
        assert_eq!(Meta::read(&bytes).unwrap(), meta);
    }

    #[test]
    fn the_checksum_is_that_of_a_file_written_by_etcd() {
        // Bytes 16..80 of a db file of etcd 3.7.1.
        let fields = [
            "edda0ced020000000010000000000000",
            "02000000000000000000000000000000",
            "ffffffffffffffff0500000000000000",
            "0c000000000000008854756c6687453b",
        ]
        .concat();
        let mut bytes = vec![0; page::HEADER];
        bytes.extend((0..fields.len()).step_by(2).map(|at| u8::from_str_radix(&fields[at..at + 2], 16).unwrap()));
        let meta = Meta::read(&bytes).unwrap();
        assert_eq!((meta.root, meta.high_water, meta.txid, meta.freelist), (2, 5, 12, NO_FREELIST));
    }

    #[test]
    fn every_flipped_bit_of_a_meta_page_is_noticed() {
        let mut bytes = vec![0; 1024];
        Meta { page_size: 4096, root: 3, sequence: 0, freelist: 2, high_water: 4, txid: 1 }.write(1, &mut bytes);
        for bit in page::HEADER * 8..META_LENGTH * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Meta::read(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn only_a_head_of_fresh_and_empty_sectors_counts_as_torn_creation() {
        let image = fresh_image(4096);
        assert!(is_torn_creation(&[], 4096));
        assert!(is_torn_creation(&[0; 16384], 4096));
        assert!(is_torn_creation(&image[..5000], 4096));
        let mut torn = image;
        torn[..512].fill(0);
        assert!(is_torn_creation(&torn, 4096));
        torn[600] = 1;
        assert!(!is_torn_creation(&torn, 4096));
        assert!(!is_torn_creation(&[0; 16385], 4096));
    }
}

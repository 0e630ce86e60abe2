//! Branch and leaf pages as they lie in the file, read without trusting a single offset.
//!
//! A page is a 16-byte header, `count` elements of 16 bytes, then keys and values. An element gives the position of
//! its key relative to the element itself; the value follows the key.
//!
//! | header | | leaf element | | branch element | |
//! |---|---|---|---|---|---|
//! | id | u64 | flags (1 = bucket) | u32 | key position | u32 |
//! | flags (1 branch, 2 leaf) | u16 | key position | u32 | key size | u32 |
//! | count | u16 | key size | u32 | child page | u64 |
//! | overflow pages | u32 | value size | u32 | | |

use bytes::Bytes;

use super::error::Flaw;

pub(super) const HEADER: usize = 16;
pub(super) const ELEMENT: usize = 16;

pub(super) const BRANCH: u16 = 0x01;
pub(super) const LEAF: u16 = 0x02;
pub(super) const META: u16 = 0x04;
pub(super) const FREELIST: u16 = 0x10;

/// The flag of a leaf element whose value is a bucket.
pub(super) const BUCKET: u32 = 1;
/// Root page and sequence, the head of a bucket's value.
pub(super) const BUCKET_HEADER: usize = 16;

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: u64,
    pub(super) flags: u16,
    pub(super) count: u16,
    pub(super) overflow: u32,
}

impl Header {
    /// Panics when there are fewer than [`HEADER`] bytes.
    pub(super) fn read(bytes: &[u8]) -> Self {
        Self { id: u64_at(bytes, 0), flags: u16_at(bytes, 8), count: u16_at(bytes, 10), overflow: u32_at(bytes, 12) }
    }

    pub(super) fn write(&self, out: &mut [u8]) {
        out[0..8].copy_from_slice(&self.id.to_le_bytes());
        out[8..10].copy_from_slice(&self.flags.to_le_bytes());
        out[10..12].copy_from_slice(&self.count.to_le_bytes());
        out[12..16].copy_from_slice(&self.overflow.to_le_bytes());
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Branch,
    Leaf,
}

/// A branch or leaf page.
///
/// Invariant: every element, its key and its value lie inside `bytes`; a branch has at least one element.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) kind: Kind,
    count: usize,
    bytes: Bytes,
}

impl Page {
    /// Takes a page with its overflow. Keys need not be in order: that is for whoever walks the tree to check.
    pub(super) fn parse(bytes: Bytes) -> Result<Self, Flaw> {
        if bytes.len() < HEADER {
            return Err(Flaw::new("a page header", format!("{} bytes", bytes.len())));
        }
        let header = Header::read(&bytes);
        let kind = match header.flags {
            BRANCH => Kind::Branch,
            LEAF => Kind::Leaf,
            flags => return Err(Flaw::new("a branch or leaf page", format!("flags {flags:#x}"))),
        };
        let page = Self { kind, count: usize::from(header.count), bytes };
        if HEADER + page.count * ELEMENT > page.bytes.len() {
            return Err(Flaw::new("elements inside the page", format!("{} elements", page.count)));
        }
        if kind == Kind::Branch && page.count == 0 {
            return Err(Flaw::new("a branch page with children", "none"));
        }
        for index in 0..page.count {
            let place = page.place(index);
            // u64 holds the sum of a usize offset and three u32, whatever they are.
            let end = place.key_at as u64 + u64::from(place.key_size) + u64::from(place.value_size);
            if end > page.bytes.len() as u64 {
                return Err(Flaw::new("elements inside the page", format!("element {index} ending at {end}")));
            }
        }
        Ok(page)
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(super) fn into_vec(self) -> Vec<u8> {
        self.bytes.into()
    }

    /// Where the element's key and value are.
    pub(super) fn place(&self, index: usize) -> Place {
        debug_assert!(index < self.count);
        let element = HEADER + index * ELEMENT;
        let word = |n: usize| u32_at(&self.bytes, element + n * 4);
        match self.kind {
            Kind::Leaf => {
                Place { flags: word(0), key_at: element + word(1) as usize, key_size: word(2), value_size: word(3) }
            }
            Kind::Branch => Place { flags: 0, key_at: element + word(0) as usize, key_size: word(1), value_size: 0 },
        }
    }

    pub(super) fn key(&self, index: usize) -> &[u8] {
        let place = self.place(index);
        &self.bytes[place.key_at..place.value_at()]
    }

    pub(super) fn key_and_value(&self, index: usize) -> (&[u8], &[u8]) {
        let place = self.place(index);
        (&self.bytes[place.key_at..place.value_at()], &self.bytes[place.value_at()..place.end()])
    }

    pub(super) fn is_bucket(&self, index: usize) -> bool {
        self.kind == Kind::Leaf && self.place(index).flags & BUCKET != 0
    }

    pub(super) fn value_bytes(&self, index: usize) -> Bytes {
        let place = self.place(index);
        self.bytes.slice(place.value_at()..place.end())
    }

    /// The page of a branch element.
    pub(super) fn child(&self, index: usize) -> u64 {
        debug_assert_eq!(self.kind, Kind::Branch);
        u64_at(&self.bytes, HEADER + index * ELEMENT + 8)
    }

    /// The index of `key`, or the one where it would stand.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = (low + high) / 2;
            match self.key(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// The child that holds `key` if any does: the last one that does not begin after it, else the first.
    pub(super) fn child_index(&self, key: &[u8]) -> usize {
        match self.search(key) {
            Ok(index) => index,
            Err(index) => index.saturating_sub(1),
        }
    }
}

/// Where in a page an element's key and value are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) flags: u32,
    pub(super) key_at: usize,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
}

impl Place {
    pub(super) fn value_at(&self) -> usize {
        self.key_at + self.key_size as usize
    }

    pub(super) fn end(&self) -> usize {
        self.value_at() + self.value_size as usize
    }
}

/// What a bucket's value says: the root page (0 when the bucket is inline), the sequence, the inline leaf.
#[derive(Debug, Clone)]
pub(super) struct BucketValue {
    pub(super) root: u64,
    pub(super) sequence: u64,
    pub(super) inline: Option<Page>,
}

impl BucketValue {
    pub(super) fn parse(value: &Bytes) -> Result<Self, Flaw> {
        if value.len() < BUCKET_HEADER {
            return Err(Flaw::new("a bucket header of 16 bytes", format!("{} bytes", value.len())));
        }
        let (root, sequence) = (u64_at(value, 0), u64_at(value, 8));
        if root != 0 {
            return Ok(Self { root, sequence, inline: None });
        }
        let page = Page::parse(value.slice(BUCKET_HEADER..))?;
        if page.kind != Kind::Leaf {
            return Err(Flaw::new("an inline leaf page", "a branch page"));
        }
        if (0..page.count()).any(|index| page.is_bucket(index)) {
            return Err(Flaw::new("an inline bucket without buckets", "a bucket"));
        }
        Ok(Self { root, sequence, inline: Some(page) })
    }
}

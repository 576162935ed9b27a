//! Writes a bbolt file (the format of etcd's database) front to back, from sorted records, in bounded memory.
//!
//! The format, version 2, all numbers little-endian: pages of 4096 bytes. A page begins with its number (u64), its kind
//! (u16: 1 branch, 2 leaf, 4 meta), its count of elements (u16) and how many pages follow on as one with it (u32); then
//! stand the elements, then keys and values. A branch element is offset of its key (u32, from the element on), key
//! length (u32), child page (u64); a leaf element is flags (u32, 1 = a bucket), offset (u32), key length (u32), value
//! length (u32). A bucket's value is its root page (u64) and a sequence (u64). Pages 0 and 1 are meta pages, the one
//! with the higher transaction number counts; each ends with FNV-1a over the fields before it. Like etcd, no list of
//! free pages is written: the reader takes every page that no bucket reaches as free, and here all are reached.

use std::io::{self, Seek, SeekFrom, Write};

/// Size of a page; a multiple of 512, as `etcdctl snapshot save` demands of the whole.
pub const PAGE_BYTES: usize = 4096;

const PAGE_HEADER_BYTES: usize = 16;
const ELEMENT_BYTES: usize = 16;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const META: u16 = 4;
const LEAF_IS_BUCKET: u32 = 1;
const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// In place of the page number of a free list: there is none.
const NO_FREE_LIST: u64 = u64::MAX;

/// A bbolt file in the making. Buckets are written one after the other, each with its keys in ascending order.
#[derive(Debug)]
pub struct FileWriter<W> {
    out: W,
    next_page: u64,
    /// Finished buckets: name and root page.
    buckets: Vec<(Vec<u8>, u64)>,
}

impl<W: Write + Seek> FileWriter<W> {
    /// Begins a file at the start of `out`.
    pub fn new(mut out: W) -> io::Result<FileWriter<W>> {
        // Room for the two meta pages, which are known last.
        out.write_all(&[0; 2 * PAGE_BYTES])?;
        Ok(FileWriter { out, next_page: 2, buckets: Vec::new() })
    }

    /// Begins a bucket; it exists in the file once it is finished.
    pub fn bucket(&mut self, name: &str) -> BucketWriter<'_, W> {
        BucketWriter {
            file: self,
            name: name.as_bytes().to_vec(),
            levels: vec![OpenPage::new(LEAF)],
            last: None,
        }
    }

    /// Writes the list of buckets and the meta pages. Answers the writer and the file's size in bytes.
    pub fn finish(mut self) -> io::Result<(W, u64)> {
        self.buckets.sort();
        let mut tree = Tree { levels: vec![OpenPage::new(LEAF)] };
        for (name, root) in std::mem::take(&mut self.buckets) {
            let mut value = [0; 16];
            value[..8].copy_from_slice(&root.to_le_bytes());
            tree.add(&mut self, Element { flags: LEAF_IS_BUCKET, key: &name, value: &value })?;
        }
        let root = tree.finish(&mut self)?;
        let pages = self.next_page;
        self.out.seek(SeekFrom::Start(0))?;
        for transaction in 0..2 {
            self.out.write_all(&meta_page(transaction, root, pages))?;
        }
        self.out.flush()?;
        Ok((self.out, pages * PAGE_BYTES as u64))
    }

    /// Writes a page with what belongs to it and answers its number.
    fn write_page(&mut self, page: &OpenPage) -> io::Result<u64> {
        let number = self.next_page;
        let pages = page.bytes().div_ceil(PAGE_BYTES).max(1);
        let mut header = [0; PAGE_HEADER_BYTES];
        header[..8].copy_from_slice(&number.to_le_bytes());
        header[8..10].copy_from_slice(&page.kind.to_le_bytes());
        header[10..12].copy_from_slice(&(page.elements.len() as u16).to_le_bytes());
        header[12..].copy_from_slice(&(pages as u32 - 1).to_le_bytes());
        self.out.write_all(&header)?;
        let mut data_offset = 0;
        for (at, element) in page.elements.iter().enumerate() {
            let offset = (page.elements.len() - at) * ELEMENT_BYTES + data_offset;
            self.out.write_all(&element.encode(page.kind, offset as u32))?;
            data_offset += (element.key_length + element.value_length) as usize;
        }
        self.out.write_all(&page.data)?;
        let padding = pages * PAGE_BYTES - page.bytes();
        self.out.write_all(&[0; PAGE_BYTES][..padding])?;
        self.next_page += pages as u64;
        Ok(number)
    }
}

/// One bucket of a [`FileWriter`].
#[derive(Debug)]
pub struct BucketWriter<'a, W> {
    file: &'a mut FileWriter<W>,
    name: Vec<u8>,
    levels: Vec<OpenPage>,
    last: Option<Vec<u8>>,
}

impl<W: Write + Seek> BucketWriter<'_, W> {
    /// Adds a record; its key must be above the one before.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if self.last.as_deref().is_some_and(|last| last >= key) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("key {} does not follow the one before", key.escape_ascii()),
            ));
        }
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        let mut tree = Tree { levels: std::mem::take(&mut self.levels) };
        let added = tree.add(self.file, Element { flags: 0, key, value });
        self.levels = tree.levels;
        added
    }

    /// Ends the bucket.
    pub fn finish(self) -> io::Result<()> {
        let root = Tree { levels: self.levels }.finish(self.file)?;
        self.file.buckets.push((self.name, root));
        Ok(())
    }
}

/// A B+tree that grows to the right: one open page a level, the leaves first.
struct Tree {
    levels: Vec<OpenPage>,
}

/// A record, or a bucket in the list of buckets.
struct Element<'a> {
    flags: u32,
    key: &'a [u8],
    value: &'a [u8],
}

impl Tree {
    fn add<W: Write + Seek>(&mut self, file: &mut FileWriter<W>, element: Element<'_>) -> io::Result<()> {
        if !self.levels[0].has_room(element.key.len() + element.value.len()) {
            self.close_page(file, 0)?;
        }
        self.levels[0].push(element.flags, element.key, element.value);
        Ok(())
    }

    /// Writes the open page of a level and names it in the level above.
    fn close_page<W: Write + Seek>(&mut self, file: &mut FileWriter<W>, level: usize) -> io::Result<()> {
        let number = file.write_page(&self.levels[level])?;
        if self.levels.len() == level + 1 {
            self.levels.push(OpenPage::new(BRANCH));
        }
        let first_key = self.levels[level].first_key().to_vec();
        // Only the last branch of a level may end up with one child, and never the root: it is made with the second.
        if !self.levels[level + 1].has_room(first_key.len()) {
            self.close_page(file, level + 1)?;
        }
        self.levels[level].clear();
        self.levels[level + 1].push_child(&first_key, number);
        Ok(())
    }

    /// Writes what is open and answers the root page.
    fn finish<W: Write + Seek>(mut self, file: &mut FileWriter<W>) -> io::Result<u64> {
        let mut level = 0;
        while level + 1 < self.levels.len() {
            self.close_page(file, level)?;
            level += 1;
        }
        file.write_page(&self.levels[level])
    }
}

/// A page that still takes elements.
#[derive(Debug)]
struct OpenPage {
    kind: u16,
    elements: Vec<OpenElement>,
    /// Keys and values behind one another.
    data: Vec<u8>,
}

#[derive(Debug)]
struct OpenElement {
    flags: u32,
    key_length: u32,
    value_length: u32,
    child: u64,
}

impl OpenElement {
    fn encode(&self, kind: u16, offset: u32) -> [u8; ELEMENT_BYTES] {
        let mut bytes = [0; ELEMENT_BYTES];
        if kind == BRANCH {
            bytes[..4].copy_from_slice(&offset.to_le_bytes());
            bytes[4..8].copy_from_slice(&self.key_length.to_le_bytes());
            bytes[8..].copy_from_slice(&self.child.to_le_bytes());
        } else {
            bytes[..4].copy_from_slice(&self.flags.to_le_bytes());
            bytes[4..8].copy_from_slice(&offset.to_le_bytes());
            bytes[8..12].copy_from_slice(&self.key_length.to_le_bytes());
            bytes[12..].copy_from_slice(&self.value_length.to_le_bytes());
        }
        bytes
    }
}

impl OpenPage {
    fn new(kind: u16) -> OpenPage {
        OpenPage { kind, elements: Vec::new(), data: Vec::new() }
    }

    fn bytes(&self) -> usize {
        PAGE_HEADER_BYTES + self.elements.len() * ELEMENT_BYTES + self.data.len()
    }

    /// Whether an element with so many bytes of key and value fits. An element larger than a page stands alone on as
    /// many pages as it needs; a branch always takes two children.
    fn has_room(&self, bytes: usize) -> bool {
        let least = if self.kind == BRANCH { 2 } else { 1 };
        self.elements.len() < least || self.bytes() + ELEMENT_BYTES + bytes <= PAGE_BYTES
    }

    fn push(&mut self, flags: u32, key: &[u8], value: &[u8]) {
        self.elements.push(OpenElement {
            flags,
            key_length: key.len() as u32,
            value_length: value.len() as u32,
            child: 0,
        });
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
    }

    fn push_child(&mut self, first_key: &[u8], child: u64) {
        self.elements.push(OpenElement {
            flags: 0,
            key_length: first_key.len() as u32,
            value_length: 0,
            child,
        });
        self.data.extend_from_slice(first_key);
    }

    fn first_key(&self) -> &[u8] {
        &self.data[..self.elements[0].key_length as usize]
    }

    fn clear(&mut self) {
        self.elements.clear();
        self.data.clear();
    }
}

/// Meta page number `transaction` (0 or 1), which is its transaction number too.
fn meta_page(transaction: u64, root: u64, pages: u64) -> [u8; PAGE_BYTES] {
    let mut page = [0; PAGE_BYTES];
    page[..8].copy_from_slice(&transaction.to_le_bytes());
    page[8..10].copy_from_slice(&META.to_le_bytes());
    let mut meta = Vec::with_capacity(64);
    meta.extend_from_slice(&MAGIC.to_le_bytes());
    meta.extend_from_slice(&VERSION.to_le_bytes());
    meta.extend_from_slice(&(PAGE_BYTES as u32).to_le_bytes());
    meta.extend_from_slice(&0u32.to_le_bytes());
    for field in [root, 0, NO_FREE_LIST, pages, transaction] {
        meta.extend_from_slice(&field.to_le_bytes());
    }
    let checksum = fnv_1a(&meta);
    meta.extend_from_slice(&checksum.to_le_bytes());
    page[PAGE_HEADER_BYTES..][..meta.len()].copy_from_slice(&meta);
    page
}

fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;

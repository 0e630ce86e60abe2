//! A disk in memory that forgets what was not synced.
//!
//! It keeps two states: what a process sees, and what would be there after a power cut. [`SimDisk::crash`] takes the
//! second, and lets chance decide, sector by sector, which of the writes in flight made it. [`SimDisk::fail_after`]
//! makes one later call fail. As on Linux, a failed sync leaves the written bytes visible and never makes them durable.
//! [`SimDisk::misread_at`] has one later read give something else than what was written, and say nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use super::{Disk, DiskFile, Space};

/// Writes reach the medium whole sectors at a time.
pub const SECTOR: usize = 512;

/// A shared handle; clones see the same disk.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// What a process sees.
    names: BTreeMap<PathBuf, Inode>,
    /// What a power cut leaves of the names.
    durable_names: BTreeMap<PathBuf, Inode>,
    dirs: BTreeSet<PathBuf>,
    fault: Option<Fault>,
    mutations: u64,
    /// Syncs are promised and not done.
    lies: bool,
    is_read_only: bool,
    /// How long each sync of a file takes.
    sync_takes: Duration,
    misread: Option<Misread>,
    /// The unit in which it is kept what was overwritten.
    remembers: Option<usize>,
}

/// What a read gives in place of what was written.
#[derive(Debug, Clone, Copy)]
pub enum Wrong {
    /// Only so many bytes of those that were asked for, as if the file ended there; or that as its length.
    Short(usize),
    /// Of the units that are read and were ever overwritten, the one with this number (from the start again if there are
    /// fewer) as it was before it was written last; see [`SimDisk::remember`].
    Old(usize),
}

#[derive(Debug)]
struct Misread {
    /// Part of the path of what it strikes.
    place: &'static str,
    /// How many reads there are spared yet.
    spared: u64,
    wrong: Wrong,
}

#[derive(Debug)]
struct Fault {
    /// Part of the path of what it strikes.
    place: &'static str,
    /// How many calls there are spared yet.
    spared: u64,
    kind: io::ErrorKind,
}

type Inode = Arc<Mutex<Content>>;

#[derive(Debug, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
    /// Units by their number, as they were before they were written last.
    before: BTreeMap<usize, Vec<u8>>,
    locked: Arc<AtomicBool>,
}

#[derive(Debug, Clone)]
enum Pending {
    Write { offset: usize, data: Vec<u8> },
    Len(usize),
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the call that changes the disk after `after` more of them fail, once.
    pub fn fail_after(&self, after: u64, kind: io::ErrorKind) {
        self.fail_at("", after, kind);
    }

    /// The same, but only calls count whose path, as it was when the file was opened, contains `place`.
    pub fn fail_at(&self, place: &'static str, after: u64, kind: io::ErrorKind) {
        self.state.lock().fault = Some(Fault { place, spared: after, kind });
    }

    /// Takes back what [`SimDisk::fail_after`] asked for.
    pub fn fail_never(&self) {
        self.state.lock().fault = None;
    }

    /// From now on a sync does nothing, and says that it has: for finding out whether that would be noticed.
    pub fn lie(&self) {
        self.state.lock().lies = true;
    }

    /// From now on nothing can be changed, as on a file system that was mounted anew after an error; or it can again.
    pub fn set_read_only(&self, is_read_only: bool) {
        self.state.lock().is_read_only = is_read_only;
    }

    /// From now on each sync of a file takes so long.
    pub fn slow_down(&self, sync_takes: Duration) {
        self.state.lock().sync_takes = sync_takes;
    }

    /// From now on it is kept what is overwritten, in units of so many bytes, so that reads may give it.
    pub fn remember(&self, unit: usize) {
        self.state.lock().remembers = Some(unit);
    }

    /// Makes the read after `after` more of them wrong, once. Only reads of files count whose path contains `place`, and
    /// questions for their length if they may be answered wrongly.
    pub fn misread_at(&self, place: &'static str, after: u64, wrong: Wrong) {
        self.state.lock().misread = Some(Misread { place, spared: after, wrong });
    }

    /// Takes back what [`SimDisk::misread_at`] asked for; whether it was still to come.
    pub fn misread_never(&self) -> bool {
        self.state.lock().misread.take().is_some()
    }

    /// What is wrong with this read, if anything is, and the unit of what is kept.
    fn misread(&self, path: &Path, is_struck: impl Fn(&Wrong) -> bool) -> Option<(Wrong, usize)> {
        let mut state = self.state.lock();
        let misread = state.misread.as_mut().filter(|misread| is_struck(&misread.wrong))?;
        if !path.to_string_lossy().contains(misread.place) {
            return None;
        }
        match misread.spared.checked_sub(1) {
            Some(spared) => {
                misread.spared = spared;
                None
            }
            None => Some((state.misread.take()?.wrong, state.remembers.unwrap_or(SECTOR))),
        }
    }

    /// Whether the fault asked for has happened.
    pub fn has_failed(&self) -> bool {
        self.state.lock().fault.is_none()
    }

    /// How many calls changed, or tried to change, the disk so far.
    pub fn mutations(&self) -> u64 {
        self.state.lock().mutations
    }

    /// The disk after the process ended: what was written is there, durable or not. Locks are gone, and what the process
    /// still does to this disk is not seen by the new one.
    pub fn killed(&self) -> Self {
        let state = self.state.lock();
        // A file with two names has one content.
        let mut copies: BTreeMap<*const Mutex<Content>, Inode> = BTreeMap::new();
        let mut copy = |inode: &Inode| {
            let copied = || {
                let content = inode.lock();
                let Content { live, durable, pending, before, .. } = &*content;
                let (live, durable, pending) = (live.clone(), durable.clone(), pending.clone());
                Arc::new(Mutex::new(Content { live, durable, pending, before: before.clone(), ..Content::default() }))
            };
            copies.entry(Arc::as_ptr(inode)).or_insert_with(copied).clone()
        };
        let mut copy_all = |names: &BTreeMap<PathBuf, Inode>| -> BTreeMap<PathBuf, Inode> {
            names.iter().map(|(path, inode)| (path.clone(), copy(inode))).collect()
        };
        let (names, durable_names) = (copy_all(&state.names), copy_all(&state.durable_names));
        let (dirs, lies, remembers) = (state.dirs.clone(), state.lies, state.remembers);
        Self { state: Arc::new(Mutex::new(State { names, durable_names, dirs, lies, remembers, ..State::default() })) }
    }

    /// The disk after a power cut: `survives` is asked once for every unsynced sector. Locks are gone.
    pub fn crash(&self, mut survives: impl FnMut() -> bool) -> Self {
        let state = self.state.lock();
        let names: BTreeMap<_, _> = state
            .durable_names
            .iter()
            .map(|(path, inode)| (path.clone(), Arc::new(Mutex::new(inode.lock().after_crash(&mut survives)))))
            .collect();
        let (dirs, lies) = (state.dirs.clone(), state.lies);
        let state = State { durable_names: names.clone(), names, dirs, lies, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The bytes a process sees in a file.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        self.state.lock().names.get(path).map(|inode| inode.lock().live.clone())
    }

    /// Puts a file there, durably; for damaging one.
    pub fn put(&self, path: &Path, content: Vec<u8>) {
        let inode = Arc::new(Mutex::new(Content { live: content.clone(), durable: content, ..Content::default() }));
        let mut state = self.state.lock();
        state.names.insert(path.to_owned(), inode.clone());
        state.durable_names.insert(path.to_owned(), inode);
    }

    fn mutate(&self, path: &Path) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        state.mutations += 1;
        if state.is_read_only {
            return Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the file system is read-only"));
        }
        match &mut state.fault {
            Some(fault) if path.to_string_lossy().contains(fault.place) => match fault.spared.checked_sub(1) {
                Some(spared) => fault.spared = spared,
                None => {
                    let kind = fault.kind;
                    state.fault = None;
                    return Err(io::Error::new(kind, "injected fault"));
                }
            },
            _ => {}
        }
        Ok(state)
    }
}

impl Content {
    /// Keeps the units of a range that is about to be written.
    fn keep(&mut self, range: Range<usize>, unit: usize) {
        for number in range.start / unit..range.end.div_ceil(unit) {
            let end = self.live.len().min((number + 1) * unit);
            let mut old = self.live[end.min(number * unit)..end].to_vec();
            old.resize(unit, 0);
            self.before.insert(number, old);
        }
    }

    fn after_crash(&self, survives: &mut impl FnMut() -> bool) -> Content {
        let mut durable = self.durable.clone();
        for pending in &self.pending {
            match pending {
                Pending::Len(len) => {
                    if survives() {
                        durable.resize(*len, 0);
                    }
                }
                Pending::Write { offset, data } => {
                    let mut at = 0;
                    while at < data.len() {
                        let end = data.len().min(at + SECTOR - (offset + at) % SECTOR);
                        if survives() {
                            put_at(&mut durable, offset + at, &data[at..end]);
                        }
                        at = end;
                    }
                }
            }
        }
        Content { live: durable.clone(), durable, ..Content::default() }
    }
}

fn put_at(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if bytes.len() < offset + data.len() {
        bytes.resize(offset + data.len(), 0);
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let inode = self.state.lock().names.get(path).cloned().ok_or_else(|| not_found(path))?;
        Ok(Box::new(SimFile { disk: self.clone(), path: path.to_owned(), inode, holds: AtomicBool::new(false) }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.mutate(path)?;
        if !path.parent().is_some_and(|dir| state.dirs.contains(dir)) {
            return Err(not_found(path));
        }
        let inode = Inode::default();
        state.names.insert(path.to_owned(), inode.clone());
        drop(state);
        Ok(Box::new(SimFile { disk: self.clone(), path: path.to_owned(), inode, holds: AtomicBool::new(false) }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.mutate(path)?;
        state.dirs.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.mutate(from)?;
        if let Some(inode) = state.names.remove(from) {
            state.names.insert(to.to_owned(), inode);
            return Ok(());
        }
        if !state.dirs.remove(from) {
            return Err(not_found(from));
        }
        state.dirs.insert(to.to_owned());
        let inside: Vec<_> = state.names.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for path in inside {
            let inode = state.names.remove(&path).expect("listed under the lock");
            let renamed = to.join(path.strip_prefix(from).expect("filtered by the prefix"));
            state.names.insert(renamed, inode);
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.mutate(path)?.names.remove(path).map(|_| ()).ok_or_else(|| not_found(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.mutate(path)?;
        state.names.retain(|name, _| !name.starts_with(path));
        state.dirs.retain(|dir| !dir.starts_with(path));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        if !state.dirs.contains(dir) {
            return Err(not_found(dir));
        }
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn exists(&self, path: &Path) -> bool {
        let state = self.state.lock();
        state.names.contains_key(path) || state.dirs.contains(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.mutate(dir)?;
        if state.lies {
            return Ok(());
        }
        // A rename moves a whole directory, so everything below becomes durable with it.
        state.durable_names.retain(|path, _| !path.starts_with(dir));
        let inside: Vec<_> =
            state.names.iter().filter(|(path, _)| path.starts_with(dir)).map(|(p, i)| (p.clone(), i.clone())).collect();
        state.durable_names.extend(inside);
        Ok(())
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        Ok(Space { free: u64::MAX, total: u64::MAX })
    }

    fn is_simulated(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    inode: Inode,
    holds: AtomicBool,
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let misread = self.disk.misread(&self.path, |wrong| matches!(wrong, Wrong::Short(_)));
        let len = self.inode.lock().live.len();
        match misread {
            Some((Wrong::Short(bytes), _)) => Ok(len.min(bytes) as u64),
            _ => Ok(len as u64),
        }
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let misread = self.disk.misread(&self.path, |_| true);
        let content = self.inode.lock();
        let start = content.live.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        let n = buf.len().min(content.live.len() - start);
        buf[..n].copy_from_slice(&content.live[start..start + n]);
        match misread {
            None => Ok(n),
            Some((Wrong::Short(bytes), _)) => Ok(n.min(bytes)),
            Some((Wrong::Old(number), unit)) => {
                let read: Vec<_> = content.before.range(start / unit..(start + n).div_ceil(unit)).collect();
                if let Some((at, old)) = read.get(number % read.len().max(1)) {
                    let (from, to) = (start.max(**at * unit), (start + n).min((**at + 1) * unit));
                    buf[from - start..to - start].copy_from_slice(&old[from - **at * unit..to - **at * unit]);
                }
                Ok(n)
            }
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let failed = self.disk.mutate(&self.path).err();
        let offset = usize::try_from(offset).expect("simulated files are small");
        // A failing write may still have put its first sectors there.
        let sectors_end = (offset + data.len() / 2) / SECTOR * SECTOR;
        let data = if failed.is_some() { &data[..sectors_end.saturating_sub(offset)] } else { data };
        let remembers = self.disk.state.lock().remembers;
        let mut content = self.inode.lock();
        if let Some(unit) = remembers {
            content.keep(offset..offset + data.len(), unit);
        }
        put_at(&mut content.live, offset, data);
        content.pending.push(Pending::Write { offset, data: data.to_vec() });
        failed.map_or(Ok(()), Err)
    }

    fn sync_data(&self) -> io::Result<()> {
        let takes = self.disk.state.lock().sync_takes;
        if !takes.is_zero() {
            std::thread::sleep(takes);
        }
        let failed = match self.disk.mutate(&self.path) {
            Ok(state) if state.lies => return Ok(()),
            state => state.err(),
        };
        let mut content = self.inode.lock();
        let pending = std::mem::take(&mut content.pending);
        if let Some(error) = failed {
            // The pages are marked clean: visible until the next crash, durable never.
            return Err(error);
        }
        for op in pending {
            match op {
                Pending::Write { offset, data } => put_at(&mut content.durable, offset, &data),
                Pending::Len(len) => content.durable.resize(len, 0),
            }
        }
        Ok(())
    }

    fn forget(&self, len: u64) -> io::Result<()> {
        let mut content = self.inode.lock();
        let Content { live, durable, pending, .. } = &mut *content;
        if !pending.is_empty() {
            return Ok(());
        }
        let end = live.len().min(usize::try_from(len).unwrap_or(usize::MAX));
        let known = end.min(durable.len());
        live[..known].copy_from_slice(&durable[..known]);
        live[known..end].fill(0);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        drop(self.disk.mutate(&self.path)?);
        let mut content = self.inode.lock();
        let len = usize::try_from(len).expect("simulated files are small");
        content.live.resize(len, 0);
        content.pending.push(Pending::Len(len));
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let is_shorter = (self.inode.lock().live.len() as u64) < len;
        if is_shorter { self.set_len(len) } else { Ok(()) }
    }

    fn try_lock(&self) -> io::Result<bool> {
        let locked = self.inode.lock().locked.clone();
        if self.holds.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let free = !locked.swap(true, Ordering::Relaxed);
        self.holds.store(free, Ordering::Relaxed);
        Ok(free)
    }

    /// Shares with nobody: a test has one process.
    fn try_lock_shared(&self) -> io::Result<bool> {
        self.try_lock()
    }

    fn unlock(&self) -> io::Result<()> {
        if self.holds.swap(false, Ordering::Relaxed) {
            self.inode.lock().locked.store(false, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if self.holds.load(Ordering::Relaxed) {
            self.inode.lock().locked.store(false, Ordering::Relaxed);
        }
    }
}

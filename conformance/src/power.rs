//! A disk whose power may be cut: ext4 on a loop device, which then loses whatever was not synced.
//!
//! The file system is told to stop at once and to leave its journal as it is (`EXT4_IOC_SHUTDOWN`), as the `godown` of
//! xfstests does; mounted again, it recovers from what the device has. What the device was given it keeps: disks that
//! lose what they took are simulated, in `storage` and `server`.
//!
//! Each mount is in a mount namespace of the one process that uses it. So it ends with that process, and the loop device
//! with it, however a test ends.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;

use crate::target::START_LIMIT;

/// Nothing of the file takes space before it is written.
const BYTES: u64 = 1 << 30;

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`, as soon as a line comes in, and only if the folder is on the
/// loop device of the file that is named: on any other it would end the machine.
const SHUT_DOWN: &str = "import fcntl, os, struct, sys\n\
    folder = os.open(sys.argv[1], os.O_RDONLY)\n\
    device = os.fstat(folder).st_dev\n\
    with open(f'/sys/dev/block/{os.major(device)}:{os.minor(device)}/loop/backing_file') as file:\n\
    \x20 if file.read().strip() != sys.argv[2]: sys.exit('another disk is mounted there')\n\
    print('ready', flush=True)\n\
    sys.stdin.readline()\n\
    fcntl.ioctl(folder, 0x8004587D, struct.pack('I', 2))";

/// What is written right before each cut and not synced.
const UNSYNCED: &str = "unsynced";

/// One disk, and the folder where it is mounted for those who use it.
#[derive(Debug)]
pub(crate) struct Disk {
    image: PathBuf,
    folder: PathBuf,
}

/// What cannot be done here, if it cannot.
pub fn missing() -> Option<String> {
    let tried = || -> anyhow::Result<()> {
        let dir = TempDir::with_prefix("conformance-")?;
        let disk = Disk::make(dir.path())?;
        Switch::start(disk.mounted(&disk.switch(&disk.folder)))?.off()
    };
    let needed = "root, loop devices, and `apt-get install e2fsprogs mount python3`";
    tried().err().map(|error| format!("no power can be cut here ({needed}): {error:#}"))
}

impl Disk {
    /// Makes one that is empty, all its files in `dir`.
    pub(crate) fn make(dir: &Path) -> anyhow::Result<Disk> {
        // A link in the path would be followed outside of the mount namespace.
        let dir = dir.canonicalize()?;
        let disk = Disk { image: dir.join("disk.image"), folder: dir.join("disk") };
        fs::create_dir(&disk.folder)?;
        fs::File::create(&disk.image)?.set_len(BYTES)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "nodiscard"]).arg(&disk.image))?;
        Ok(disk)
    }

    /// Where it is, to those who see it.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The same command, which sees the disk.
    pub(crate) fn mounted(&self, command: &Command) -> Command {
        let script = "mount -t ext4 -o loop,noinit_itable \"$0\" \"$1\" && shift && exec \"$@\"";
        let mut mounted = Command::new("unshare");
        mounted.args(["--mount", "sh", "-c", script]).arg(&self.image).arg(&self.folder);
        mounted.arg(command.get_program()).args(command.get_args());
        mounted
    }

    /// Takes the power from under a process that sees it, which should end then. `now` is called at the last moment.
    pub(crate) fn cut(&self, process: u32, now: impl FnOnce()) -> anyhow::Result<()> {
        let seen = self.seen_by(process)?;
        let switch = Switch::start(self.switch(&seen))?;
        fs::write(seen.join(UNSYNCED), [b'u'; 1 << 13])?;
        now();
        switch.off()
    }

    /// What shuts it down, seen at this folder.
    fn switch(&self, folder: &Path) -> Command {
        let mut command = Command::new("python3");
        command.args(["-c", SHUT_DOWN]).arg(folder).arg(&self.image);
        command
    }

    /// Checks that the power was gone: of what was not synced nothing is there.
    pub(crate) fn was_cut(&self, process: u32) -> anyhow::Result<()> {
        let unsynced = self.seen_by(process)?.join(UNSYNCED);
        // Its name may have got there with the journal, on behalf of somebody else's sync.
        let Ok(left) = fs::read(&unsynced) else { return Ok(()) };
        ensure!(left.iter().all(|byte| *byte == 0), "{} bytes outlived the cut that nobody synced", left.len());
        Ok(fs::remove_file(unsynced)?)
    }

    fn seen_by(&self, process: u32) -> anyhow::Result<PathBuf> {
        let root = PathBuf::from(format!("/proc/{process}/root"));
        Ok(root.join(self.folder.strip_prefix("/").context("temporary files have an absolute path")?))
    }

    /// Waits until it is not mounted any more after its user ended: the kernel lets go of it a moment later, and whoever
    /// mounted it before would get the file system that was shut down.
    pub(crate) async fn released(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        while self.is_attached()? {
            ensure!(started.elapsed() < START_LIMIT, "{} is still mounted", self.image.display());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn is_attached(&self) -> anyhow::Result<bool> {
        for device in fs::read_dir("/sys/block")? {
            // Other devices than loop devices have none, and those that are free either.
            let Ok(file) = fs::read_to_string(device?.path().join("loop/backing_file")) else { continue };
            if Path::new(file.trim_end()) == self.image {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A process that waits for the moment, so that starting it takes none of it.
struct Switch(Child);

impl Switch {
    fn start(mut command: Command) -> anyhow::Result<Switch> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut switch = Switch(command.spawn().with_context(|| format!("cannot run {command:?}"))?);
        let mut line = String::new();
        BufReader::new(switch.0.stdout.take().context("its output is a pipe")?).read_line(&mut line)?;
        if !line.is_empty() {
            return Ok(switch);
        }
        switch.off()?;
        bail!("{command:?} ended without a word")
    }

    /// Closing what it reads from is a line, too.
    fn off(self) -> anyhow::Result<()> {
        let done = self.0.wait_with_output()?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr).trim());
        Ok(())
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let done = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}

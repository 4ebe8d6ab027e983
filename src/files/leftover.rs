//! What killed processes left half made: names that say whose it is, and its removal once its owner
//! is gone.

use super::remove::remove;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Whatever another machine has left alone for so long is nobody's: a file is written in seconds.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A hidden name beside `path` that nobody else uses: `.NAME.partial-HOST-PID-COUNT`.
pub(super) fn hidden_name(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Names have at most 255 bytes; what is cut here only makes the hidden name shorter.
    let name: String = name.chars().take(50).collect();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.partial-{}-{}-{count}", host(), std::process::id()))
}

/// Removes everything half made in `folder` whose process is gone. What cannot be removed stays.
pub(crate) fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if is_leftover(&entry) {
            remove(&entry.path()).ok();
        }
    }
}

/// Whether `entry` is half made and its process gone.
pub(super) fn is_leftover(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_str().and_then(owner).is_some_and(|owner| is_gone(owner, entry))
}

/// Host and process of a name that [`hidden_name`] made.
fn owner(name: &str) -> Option<(&str, u32)> {
    let (_, owner) = name.strip_prefix('.')?.rsplit_once(".partial-")?;
    let (host, rest) = owner.split_once('-')?;
    let (process, count) = rest.split_once('-')?;
    count.parse::<u64>().ok()?;
    Some((host, process.parse().ok()?))
}

fn is_gone((host, process): (&str, u32), entry: &fs::DirEntry) -> bool {
    if host == self::host() && host != UNKNOWN {
        return !Path::new("/proc").join(process.to_string()).exists();
    }
    let modified = entry.metadata().and_then(|found| found.modified()).ok();
    modified.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > ABANDONED)
}

const UNKNOWN: &str = "unknown";

/// Where process ids mean what they mean here, as folders are shared between machines. It is a
/// digest of this boot of this machine and of the container's own numbering. [`UNKNOWN`] where the
/// system does not tell.
fn host() -> &'static str {
    static HOST: OnceLock<String> = OnceLock::new();
    HOST.get_or_init(|| {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let Ok((boot, numbering)) = boot.and_then(|boot| Ok((boot, fs::read_link("/proc/self/ns/pid")?))) else {
            return UNKNOWN.into();
        };
        let digest = Sha256::digest(format!("{boot} {}", numbering.display()));
        crate::text::hex(&digest[..4])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_owner_and_nothing_else_has_one() {
        let name = hidden_name(Path::new("runs/a-b.partial-x"));
        assert_eq!(name.parent(), Some(Path::new("runs")));
        assert_eq!(owner(name.file_name().unwrap().to_str().unwrap()), Some((host(), std::process::id())));
        for name in ["a.partial-x-1-2", ".a.partial-x-1", ".a.partial-x-y-2", ".partial", ".a.partial-x-1-2.png"] {
            assert_eq!(owner(name), None, "{name}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_what_belongs_to_nobody_is_removed() {
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let (ended, alive) = (ended.id(), std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let make = |name: String| {
            fs::create_dir(folder.path().join(&name)).unwrap();
            fs::write(folder.path().join(&name).join("image.png"), "").unwrap();
            name
        };
        let gone = make(format!(".run.partial-{}-{ended}-0", host()));
        let stays = [
            make(format!(".run.partial-{}-{alive}-7", host())),
            make(format!(".run.partial-0badcafe-{ended}-0")), // of another machine, and fresh
            make("run".into()),
        ];
        let old = make(".run.partial-0badcafe-1-1".into());
        let day_before_yesterday = std::time::SystemTime::now() - 2 * ABANDONED;
        fs::File::open(folder.path().join(&old)).unwrap().set_modified(day_before_yesterday).unwrap();
        sweep(folder.path());
        assert!(!folder.path().join(gone).exists() && !folder.path().join(old).exists());
        assert!(stays.iter().all(|name| folder.path().join(name).is_dir()));
    }
}

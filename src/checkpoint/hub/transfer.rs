//! Fetching one file into the cache: one program at a time, going on where an earlier download
//! ended, checked when it is whole.

use super::cache::{Local, damage, hex_of};
use super::failure::RequestFailure;
use super::server::{Head, HubServer, persistently};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long another program that fetches the same file may make no progress.
const PATIENCE: Duration = Duration::from_secs(30);
const BUFFER: usize = 1 << 17;

/// Fetches the file `name` of `commit`, which lies at `url`, unless its content is in the cache
/// already.
///
/// `told` hears of the bytes that have arrived and of their number, which is 0 where the server
/// does not say. Returns the path of the file in the snapshot.
pub(super) fn fetch(
    server: &HubServer,
    url: &str,
    (local, commit, name): (&Local, &str, &str),
    told: &dyn Fn(u64, u64),
) -> Result<PathBuf, RequestFailure> {
    let head = server.head(url)?;
    let blob = local.blob(&head.etag);
    let folder = blob.parent().unwrap_or(&local.folder);
    fs::create_dir_all(folder).map_err(RequestFailure::cache(folder))?;
    let _lock = lock(local, &head.etag)?;
    // Another program may have fetched it in the meantime, or another commit may have the same
    // content.
    let there = length_of(&blob);
    if there.is_none() || head.length.is_some_and(|length| there != Some(length)) || damage(&blob, name).is_some() {
        download(server, url, &head, &blob, told)?;
    }
    local.link(&blob, commit, name).map_err(RequestFailure::cache(local.pointer(commit, name)))?;
    Ok(local.pointer(commit, name))
}

/// Fetches what `head` describes into the file `blob`.
fn download(
    server: &HubServer,
    url: &str,
    head: &Head,
    blob: &Path,
    told: &dyn Fn(u64, u64),
) -> Result<(), RequestFailure> {
    let partial = local_partial(blob);
    let total = head.length.unwrap_or(0);
    told(0, total);
    let mut started = 0;
    loop {
        match persistently(|| go_on(server, url, head, &partial, told)) {
            Ok(()) => break,
            // As long as bytes arrive there is hope.
            Err(failure) if failure.may_pass() && length_of(&partial) > Some(started) => {
                started = length_of(&partial).unwrap_or(0);
            }
            Err(failure) => return Err(failure),
        }
    }
    fs::rename(&partial, blob).map_err(RequestFailure::cache(blob))?;
    let length = length_of(blob).unwrap_or(total);
    told(length, length);
    Ok(())
}

/// Where the part of a blob that has arrived lies, as in Python.
fn local_partial(blob: &Path) -> PathBuf {
    let mut name = blob.as_os_str().to_owned();
    name.push(".incomplete");
    name.into()
}

/// Fetches what the file `partial` lacks, and checks the whole.
fn go_on(
    server: &HubServer,
    url: &str,
    head: &Head,
    partial: &Path,
    told: &dyn Fn(u64, u64),
) -> Result<(), RequestFailure> {
    let is_sha256 = head.etag.len() == 64 && head.etag.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut there = length_of(partial).unwrap_or(0);
    // Without a length or a digest nothing would show that two parts do not fit.
    if !is_sha256 || head.length.is_none_or(|length| there > length) {
        there = 0;
    }
    let mut digest = Sha256::new();
    if there > 0 {
        add_file(partial, &mut digest).map_err(RequestFailure::cache(partial))?;
    }
    if there == 0 || head.length != Some(there) {
        let (response, resumed) = server.get(url, there)?;
        if !resumed {
            (there, digest) = (0, Sha256::new());
        }
        let mut how = OpenOptions::new();
        how.create(true).write(true).append(resumed).truncate(!resumed);
        let mut file = how.open(partial).map_err(RequestFailure::cache(partial))?;
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // That an answer stops in the middle says nothing of whether the server can be
                // reached.
                Err(error) => return Err(RequestFailure::Interrupted(crate::one_line(&error.to_string()))),
            };
            file.write_all(&buffer[..length]).map_err(RequestFailure::cache(partial))?;
            digest.update(&buffer[..length]);
            there += length as u64;
            // The end is told once the whole has been checked.
            if let Some(total) = head.length.filter(|total| there < *total) {
                told(there, total);
            }
        }
    }
    if let Some(length) = head.length.filter(|length| there != *length) {
        if there > length {
            discard(partial);
        }
        return Err(RequestFailure::Interrupted(format!("{there} of {length} bytes")));
    }
    if is_sha256 && hex_of(digest) != head.etag.to_lowercase() {
        discard(partial);
        return Err(RequestFailure::Damaged("its SHA-256 is not what the server says".into()));
    }
    Ok(())
}

/// Leaves nothing of a download that cannot be gone on with. Where that fails, the next check finds
/// the same.
fn discard(partial: &Path) {
    let _ = fs::remove_file(partial);
}

fn add_file(path: &Path, digest: &mut Sha256) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            length => digest.update(&buffer[..length]),
        }
    }
}

fn length_of(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|about| about.len())
}

/// Waits until no other program fetches the content `etag`, as long as it comes forward; the lock
/// is the same as Python's.
fn lock(local: &Local, etag: &str) -> Result<File, RequestFailure> {
    let path = local.lock(etag);
    let folder = path.parent().unwrap_or(&local.folder);
    fs::create_dir_all(folder).map_err(RequestFailure::cache(folder))?;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(RequestFailure::cache(&path))?;
    let arrived = || length_of(&local_partial(&local.blob(etag)));
    let (mut seen, mut since) = (arrived(), Instant::now());
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            // A file system without locks: the check of the whole file is what is left.
            Err(TryLockError::Error(_)) => return Ok(file),
        }
        let now = arrived();
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() > PATIENCE {
            return Err(RequestFailure::Locked(path));
        }
        thread::sleep(Duration::from_millis(100));
    }
}

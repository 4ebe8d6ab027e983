//! What this process may still use of memory.

use std::fs;
use std::path::Path;

/// Bytes that may still be used: the least of what the system has free and what the control groups
/// of a job or container leave. Its cache of files does not count as used. `None` where the system
/// does not tell.
pub fn free_memory() -> Option<u64> {
    let system = fs::read_to_string("/proc/meminfo").ok()?;
    let line = system.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let system = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024;
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = group.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let root = Path::new("/sys/fs/cgroup");
    // A job's limit may stand on any group above its own.
    let leaf = root.join(own);
    let groups = leaf.ancestors().take_while(|folder| folder.starts_with(root));
    let left = groups.filter_map(|folder| {
        let text = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let number = |name: &str| text(name)?.trim().parse::<u64>().ok();
        let cached = text("memory.stat").and_then(|stat| {
            stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse::<u64>().ok())
        });
        let used = number("memory.current")?.saturating_sub(cached.unwrap_or(0));
        Some(number("memory.max")?.saturating_sub(used))
    });
    Some(left.min().map_or(system, |left| left.min(system)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_system_tells_how_much_is_free() {
        if cfg!(target_os = "linux") {
            assert!(free_memory().is_some_and(|free| free > 1_000_000));
        }
    }
}

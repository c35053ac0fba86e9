//! How much memory this process may have: the limit on its address space (RLIMIT_AS) and those of its control groups
//! (cgroups(7), versions 1 and 2). Only reads them.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

/// The least of the limits on this process's memory, in bytes; `usize::MAX` if there is none.
pub fn limit() -> usize {
    let address_space = getrlimit(Resource::As).current;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let of_groups = groups.lines().filter_map(|line| limit_of_group(line, Path::new("/sys/fs/cgroup")));
    let least = of_groups.chain(address_space).min();
    least.map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// The limit of a group, a line of `/proc/self/cgroup`, and of those that contain it. `None` if there is none, or if the
/// line is about something other than memory.
fn limit_of_group(line: &str, root: &Path) -> Option<u64> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
    let (root, file) = match controllers {
        "" => (root.to_path_buf(), "memory.max"),
        _ if controllers.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
        _ => return None,
    };
    let folder = root.join(group.trim_start_matches('/'));
    let files = folder.ancestors().take_while(|folder| folder.starts_with(&root)).map(|folder| folder.join(file));
    // A file that says "max" sets no limit.
    let limit = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    files.filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_of_a_group_and_those_around_it_counts() {
        let root = std::env::temp_dir().join(format!("dayfly-cgroup-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/memory.max", "50000000\n");
        write("a/b/memory.max", "max\n");
        write("c/memory.max", "max\n");
        write("memory/d/memory.limit_in_bytes", "7000000\n");
        let limit = |line: &str| limit_of_group(line, &root);
        assert_eq!(limit("0::/a/b"), Some(50_000_000));
        assert_eq!((limit("0::/c"), limit("0::/"), limit("0::/gone")), (None, None, None));
        assert_eq!(limit("5:cpu,memory:/d"), Some(7_000_000));
        assert_eq!((limit("5:cpu:/d"), limit("nonsense"), limit("")), (None, None, None));
        fs::remove_dir_all(root).unwrap();
    }
}

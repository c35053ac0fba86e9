//! How much memory this process may have: the limit on its address space (RLIMIT_AS) and those of its control groups
//! (cgroups(7), versions 1 and 2). Only reads them.

use std::fs::File;
use std::io::Read;

use rustix::process::{Resource, getrlimit};

use crate::limits::{KERNEL_FILE_BYTES, MEMORY_SHARE};

/// The least of the limits on this process's memory, in bytes; `usize::MAX` if there is none.
fn limit() -> usize {
    let address_space = getrlimit(Resource::As).current;
    let groups = start_of("/proc/self/cgroup").unwrap_or_default();
    let of_groups = groups.lines().filter_map(|line| limit_of_group(line, "/sys/fs/cgroup"));
    let least = of_groups.chain(address_space).min();
    least.map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// The part of this process's memory that one kind of use may take by default: `most` bytes, or less where that would be
/// more than its share of what the process may have.
pub fn share(most: usize) -> usize {
    most.min(limit() / MEMORY_SHARE)
}

/// The limit of a group, a line of `/proc/self/cgroup`, and of those that contain it. `None` if there is none, or if the
/// line is about something other than memory.
fn limit_of_group(line: &str, root: &str) -> Option<u64> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, group) = rest.split_once(':')?;
    let (root, file) = match controllers {
        "" => (root.to_string(), "memory.max"),
        _ if controllers.split(',').any(|name| name == "memory") => (format!("{root}/memory"), "memory.limit_in_bytes"),
        _ => return None,
    };
    let (mut group, mut least) = (group.trim_end_matches('/'), None);
    loop {
        // A file that says "max" sets no limit.
        let limit = start_of(&format!("{root}{group}/{file}")).and_then(|text| text.trim().parse::<u64>().ok());
        least = least.into_iter().chain(limit).min();
        match group.rfind('/') {
            Some(end) => group = &group[..end],
            None => return least,
        }
    }
}

/// The text at the start of a file, more than the files of the kernel have that are read here.
fn start_of(path: &str) -> Option<String> {
    let mut bytes = [0; KERNEL_FILE_BYTES];
    let len = File::open(path).ok()?.read(&mut bytes).ok()?;
    std::str::from_utf8(&bytes[..len]).ok().map(String::from)
}

#[cfg(test)]
mod tests {
    use std::fs;

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
        let limit = |line: &str| limit_of_group(line, root.to_str().unwrap());
        assert_eq!(limit("0::/a/b"), Some(50_000_000));
        assert_eq!((limit("0::/c"), limit("0::/"), limit("0::/gone")), (None, None, None));
        assert_eq!(limit("5:cpu,memory:/d"), Some(7_000_000));
        assert_eq!((limit("5:cpu:/d"), limit("nonsense"), limit("")), (None, None, None));
        fs::remove_dir_all(root).unwrap();
    }
}

//! Unix sockets that only this user and root can reach. On Linux, they have abstract names, which leave nothing on
//! disk; elsewhere, they are files in a private folder. Never sends or reads anything.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};

#[cfg(not(target_os = "linux"))]
pub(super) use folder::{is_trusted, name_of};
#[cfg(target_os = "linux")]
pub(super) use names::{is_trusted, name_of};

/// Removes the file of a socket whose process is gone, so that its name can be used again. A socket that still answers
/// stays. Abstract names end with their process.
pub(super) fn remove_stale(name: &UnixAddr) {
    let refused = || UnixStream::connect_addr(name).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
    if let Some(file) = name.as_pathname().filter(|_| refused()) {
        // If this fails, so will the bind.
        let _ = std::fs::remove_file(file);
    }
}

/// The abstract names of Linux. Every process on this host (network namespace) can bind or connect to them, so both
/// ends check the other end's user.
#[cfg(target_os = "linux")]
mod names {
    use std::os::fd::AsFd;
    use std::os::linux::net::SocketAddrExt;

    use super::*;

    /// The name of the status socket of the node on `addr`.
    pub fn name_of(addr: SocketAddr) -> io::Result<UnixAddr> {
        UnixAddr::from_abstract_name(format!("dayfly/status/{addr}"))
    }

    /// Whether the process at the other end belongs to this user or to root.
    pub fn is_trusted(stream: &impl AsFd) -> bool {
        let own = rustix::process::geteuid();
        rustix::net::sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == own || peer.uid.is_root())
    }
}

/// Files in a folder that only this user can access. The path of the folder is determined anew each time, because nodes
/// and clients must agree on it. A process that could open a file in the folder is trusted.
#[cfg(any(not(target_os = "linux"), test))]
mod folder {
    use std::fs::{self, DirBuilder};
    use std::net::IpAddr;
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    use std::path::PathBuf;

    use super::*;

    /// The name of the status socket of the node on `addr`.
    ///
    /// Errors: its folder can't be created, or is not private (`PermissionDenied`).
    #[cfg(not(target_os = "linux"))]
    pub fn name_of(addr: SocketAddr) -> io::Result<UnixAddr> {
        let uid = rustix::process::geteuid().as_raw();
        let folder = folder_of(std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from), uid);
        UnixAddr::from_pathname(file_in(folder, addr, uid)?)
    }

    /// Trusts every process that reached a file in the folder.
    #[cfg(not(target_os = "linux"))]
    pub fn is_trusted(_: &impl std::os::fd::AsFd) -> bool {
        true
    }

    /// The folder of user `uid`: inside `runtime` if that is an absolute path, or else inside the folder for temporary
    /// files.
    pub(super) fn folder_of(runtime: Option<PathBuf>, uid: u32) -> PathBuf {
        match runtime.filter(|base| base.is_absolute()) {
            Some(base) => base.join("dayfly"),
            None => std::env::temp_dir().join(format!("dayfly-{uid}")),
        }
    }

    /// The file for `addr` in `folder`, which is created if necessary.
    pub(super) fn file_in(folder: PathBuf, addr: SocketAddr, uid: u32) -> io::Result<PathBuf> {
        // Fails if the folder exists, which is checked next.
        let _ = DirBuilder::new().mode(0o700).create(&folder);
        let found = fs::symlink_metadata(&folder)?;
        if !found.is_dir() || found.uid() != uid || found.mode() & 0o077 != 0 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        // In hex, because some systems limit the path of a socket to 103 bytes.
        let ip = match addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Ok(folder.join(format!("{:x}-{}", ip.to_bits(), addr.port())))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;
    use std::path::{Path, PathBuf};

    use super::folder::{file_in, folder_of};
    use super::*;

    fn fresh(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("dayfly-test-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        folder
    }

    fn own_uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn refusal(folder: &Path, uid: u32) -> Option<io::ErrorKind> {
        file_in(folder.to_path_buf(), ([127, 0, 0, 1], 6500).into(), uid).err().map(|e| e.kind())
    }

    #[test]
    fn a_socket_lies_in_a_folder_of_ours_alone_and_its_name_is_short() {
        let folder = fresh("own");
        let longest = "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535".parse().unwrap();
        let file = file_in(folder.clone(), longest, own_uid()).unwrap();
        assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(file.parent(), Some(&*folder));
        assert!(file.file_name().unwrap().len() <= 38, "macOS has paths of 65 bytes before it");
        assert_ne!(file, file_in(folder.clone(), ([127, 0, 0, 1], 65535).into(), own_uid()).unwrap());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_runtime_directory_holds_the_folder_if_there_is_one() {
        assert_eq!(folder_of(Some("/run/user/7".into()), 7), Path::new("/run/user/7/dayfly"));
        for none in [None, Some("".into()), Some("run".into())] {
            assert_eq!(folder_of(none, 7), std::env::temp_dir().join("dayfly-7"));
        }
    }

    #[test]
    fn a_folder_that_others_can_enter_or_own_is_refused() {
        let folder = fresh("open");
        assert_eq!(refusal(&folder, own_uid()), None);
        assert_eq!(refusal(&folder, own_uid() + 1), Some(io::ErrorKind::PermissionDenied));
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o711)).unwrap();
        assert_eq!(refusal(&folder, own_uid()), Some(io::ErrorKind::PermissionDenied));
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
        let link = fresh("link");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        assert_eq!(
            refusal(&link, own_uid()),
            Some(io::ErrorKind::PermissionDenied),
            "somebody else's link may lead to it"
        );
        std::fs::remove_file(link).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_socket_that_a_dead_node_left_is_replaced_and_a_living_one_is_not() {
        let folder = fresh("stale");
        let file = file_in(folder.clone(), ([127, 0, 0, 1], 6500).into(), own_uid()).unwrap();
        let name = UnixAddr::from_pathname(file).unwrap();
        let living = UnixListener::bind_addr(&name).unwrap();
        remove_stale(&name);
        assert!(UnixListener::bind_addr(&name).is_err());
        drop(living);
        assert!(UnixListener::bind_addr(&name).is_err(), "its file is still there");
        remove_stale(&name);
        assert!(UnixListener::bind_addr(&name).is_ok());
        std::fs::remove_dir_all(folder).unwrap();
    }
}

//! Creates sockets: listeners, and dials from the listening port. Never blocks; reads and writes nothing.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

#[cfg(target_os = "linux")]
use crate::limits::USER_TIMEOUT_MS;
use crate::limits::{BACKLOG, KEEP_ALIVE_INTERVAL_MS, KEEP_ALIVE_MS, KEEP_ALIVE_PROBES, MACOS_OPEN_MAX};

/// A bound, listening socket.
pub struct ListeningSocket {
    /// The socket.
    pub socket: TcpListener,
    /// The address to which it is bound; the port is never 0.
    pub addr: SocketAddr,
}

/// Listens on `addr`; port 0 lets the kernel choose. SO_REUSEPORT, which our dials need to share the port, is set only
/// after the bind, so that a port on which another process listens is an error (docs/protocol-sealed.md, "Who is who").
///
/// Errors: the address can't be bound, or no descriptors are left.
pub fn listen(addr: SocketAddr) -> io::Result<ListeningSocket> {
    let socket = new_socket(addr, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit this.
    notice_vanished_peers(&socket)?;
    socket.listen(BACKLOG)?;
    let socket = TcpListener::from_std(socket.into());
    let addr = socket.local_addr()?;
    Ok(ListeningSocket { socket, addr })
}

/// Starts to connect to `to`, from the address `from` if given, or else from an ephemeral port. An event tells when the
/// connection is established.
///
/// Errors: the connection failed at once, the address pair is in use, or no descriptors are left.
pub fn dial(from: Option<SocketAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = new_socket(to, Type::STREAM, Protocol::TCP)?;
    socket.set_tcp_nodelay(true)?;
    notice_vanished_peers(&socket)?;
    if let Some(from) = from {
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&from.into())?;
    }
    match socket.connect(&to.into()) {
        Err(e) if e.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(e),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

/// Has the kernel end connections whose peer has vanished without a word (docs/faults.md, row 27): it asks peers that
/// are silent, and does not wait longer for one that acknowledges nothing.
fn notice_vanished_peers(socket: &Socket) -> io::Result<()> {
    let keep_alive = TcpKeepalive::new()
        .with_time(Duration::from_millis(KEEP_ALIVE_MS))
        .with_interval(Duration::from_millis(KEEP_ALIVE_INTERVAL_MS))
        .with_retries(KEEP_ALIVE_PROBES);
    socket.set_tcp_keepalive(&keep_alive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(Duration::from_millis(USER_TIMEOUT_MS)))?;
    Ok(())
}

/// Creates a nonblocking socket. On IPv6, it does not accept IPv4.
pub(super) fn new_socket(addr: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Whether an operation failed because we ran out of descriptors or memory.
pub fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    shortages.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The local address that this host uses to reach `to`. Found by connecting a UDP socket, which sends nothing.
///
/// Errors: there is no route.
pub fn route_towards(to: SocketAddr) -> io::Result<std::net::IpAddr> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

/// Raises the soft limit of open files to the hard one. Returns the new soft limit, or `u64::MAX` if there is none.
pub fn raise_open_files() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // macOS has no hard limit by default, but accepts no soft limit above its OPEN_MAX.
    let is_macos = cfg!(target_os = "macos");
    let current = if is_macos { maximum.or(Some(MACOS_OPEN_MAX)).min(Some(MACOS_OPEN_MAX)) } else { maximum };
    // After an error the soft limit is unchanged, and is read back below.
    let _ = setrlimit(Resource::Nofile, Rlimit { current, maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// `N` random bytes from the kernel, for secrets.
///
/// Errors: the kernel provides none.
pub fn secret<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    fill_randomly(&mut bytes)?;
    Ok(bytes)
}

#[cfg(target_os = "linux")]
fn fill_randomly(bytes: &mut [u8]) -> io::Result<()> {
    match rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())? {
        n if n == bytes.len() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Elsewhere: from the device, which is seeded before any of our processes can run.
#[cfg(not(target_os = "linux"))]
fn fill_randomly(bytes: &mut [u8]) -> io::Result<()> {
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, bytes)
}

/// A random number from the kernel, for seeding pure modules; the wall-clock time if the kernel provides none.
pub fn seed() -> u64 {
    let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
    secret().map_or_else(|_| now(), u64::from_ne_bytes)
}

//! Where hosts reach the agent: an address in, byte streams out.
//!
//! A TCP or unix socket gives a stream per host. A serial line and stdin/stdout are one stream; a
//! serial line that hangs up is opened again and waits for the next hello.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use serialport::TTYPort;

use crate::log;

/// How long a lost serial port is left alone before it is opened again.
const REOPEN: Duration = Duration::from_millis(500);

/// A port that waits longer than this on one read or write asks again; nothing depends on it.
const SERIAL_PATIENCE: Duration = Duration::from_secs(60);

/// Where to wait for hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `host:port`; port 0 takes a free one.
    Tcp(String),
    /// A unix socket's path.
    Unix(PathBuf),
    /// A serial port.
    Serial {
        /// The device's path.
        path: PathBuf,
        /// Bits a second.
        baud: u32,
    },
    /// Stdin and stdout, for an agent started through ssh.
    Stdio,
}

/// An address that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Not open to the network: there is no pairing yet.
    #[error(
        "{0} can be reached from the network and hosts are not authenticated; serve a loopback address \
         and tunnel to it (ssh -L 7700:127.0.0.1:7700 BOARD), or let the host start the agent with \
         exec:ssh BOARD hanas-agent serve --stdio"
    )]
    Open(SocketAddr),
    /// The name does not resolve.
    #[error("{address} is no address: {error}")]
    Address {
        /// As it was given.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// The address, path or port cannot be taken.
    #[error("cannot listen on {url}: {error}")]
    Listen {
        /// What was to be listened on.
        url: String,
        /// Why.
        error: io::Error,
    },
    /// A live agent has the socket.
    #[error("{0} is in use by a running agent; stop it or take another --unix path")]
    Taken(PathBuf),
    /// Something that is no socket lies there.
    #[error("{0} exists and is no socket; take another --unix path")]
    NotASocket(PathBuf),
    /// The serial port does not open.
    #[error("cannot open {path}: {error}")]
    Serial {
        /// The device's path.
        path: PathBuf,
        /// Why.
        error: serialport::Error,
    },
}

/// One host's byte stream, both ways.
pub struct Link {
    /// From the host.
    pub reader: Box<dyn Read + Send>,
    /// To the host; may block.
    pub writer: Box<dyn Write + Send>,
    /// The same stream as a socket, where it is one: can be written without blocking and be shut down.
    pub socket: Option<OwnedFd>,
    /// Who is there, for the log.
    pub peer: String,
}

/// An endpoint that is bound and not yet served.
#[derive(Debug)]
pub enum Listener {
    /// Bound TCP.
    Tcp(TcpListener),
    /// Bound unix socket and its path.
    Unix(UnixListener, PathBuf),
    /// An open serial port, its path and bits a second.
    Serial(Port, PathBuf, u32),
    /// Stdin and stdout.
    Stdio,
}

impl Listener {
    /// Binds `endpoint`.
    ///
    /// # Errors
    /// [`LinkError`] where it cannot be bound or is open to the network.
    pub fn bind(endpoint: &Endpoint) -> Result<Self, LinkError> {
        match endpoint {
            Endpoint::Tcp(address) => bind_tcp(address),
            Endpoint::Unix(path) => bind_unix(path),
            Endpoint::Serial { path, baud } => {
                let port = Port::open(path, *baud)
                    .map_err(|error| LinkError::Serial { path: path.clone(), error })?;
                Ok(Self::Serial(port, path.clone(), *baud))
            }
            Endpoint::Stdio => Ok(Self::Stdio),
        }
    }

    /// The bound address as hosts write it; none for stdin and stdout, where no line may be printed.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok().map(|address| format!("tcp://{address}")),
            Self::Unix(_, path) => Some(format!("unix://{}", path.display())),
            Self::Serial(_, path, baud) => Some(format!("serial://{}?baud={baud}", path.display())),
            Self::Stdio => None,
        }
    }

    /// The socket's file, to be removed at the end.
    #[must_use]
    pub fn socket_file(&self) -> Option<PathBuf> {
        match self {
            Self::Unix(_, path) => Some(path.clone()),
            _ => None,
        }
    }

    /// Hands every host's stream to `serve`, which returns when the host is gone. Itself returns only
    /// where no other host can come: stdin is at its end, or accepting fails.
    ///
    /// # Errors
    /// The operating system's, where accepting fails.
    pub fn run(self, serve: impl Fn(Link) + Send + Sync + 'static) -> io::Result<()> {
        let serve = Arc::new(serve);
        match self {
            Self::Tcp(listener) => loop {
                let (stream, peer) = accept(|| listener.accept())?;
                if let Ok(link) = tcp_link(stream, peer) {
                    spawn(&serve, link);
                }
            },
            Self::Unix(listener, path) => loop {
                let (stream, _) = accept(|| listener.accept())?;
                if let Ok(link) = unix_link(stream, &path) {
                    spawn(&serve, link);
                }
            },
            Self::Serial(port, path, baud) => serve_serial(port, &path, baud, &*serve),
            Self::Stdio => {
                serve(Link {
                    reader: Box::new(io::stdin()),
                    writer: Box::new(io::stdout()),
                    socket: None,
                    peer: "stdio".to_owned(),
                });
                Ok(())
            }
        }
    }
}

fn spawn(serve: &Arc<impl Fn(Link) + Send + Sync + 'static>, link: Link) {
    let serve = Arc::clone(serve);
    thread::spawn(move || serve(link));
}

/// Accepts; a host that is gone before it is accepted, or a lack of descriptors, is no reason to end.
fn accept<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
            Err(_) => thread::sleep(REOPEN),
            accepted => return accepted,
        }
    }
}

fn bind_tcp(address: &str) -> Result<Listener, LinkError> {
    let listen = |error| LinkError::Listen { url: format!("tcp://{address}"), error };
    let resolved: Vec<SocketAddr> = address
        .to_socket_addrs()
        .map_err(|error| LinkError::Address { address: address.to_owned(), error })?
        .collect();
    if let Some(open) = resolved.iter().find(|address| !address.ip().is_loopback()) {
        return Err(LinkError::Open(*open));
    }
    TcpListener::bind(&resolved[..]).map(Listener::Tcp).map_err(listen)
}

/// Binds a unix socket; one left over by an agent that is dead gives way.
fn bind_unix(path: &Path) -> Result<Listener, LinkError> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(LinkError::NotASocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(LinkError::Taken(path.to_owned())),
        Ok(_) => std::fs::remove_file(path).ok(),
        Err(_) => None,
    };
    UnixListener::bind(path)
        .map(|listener| Listener::Unix(listener, path.to_owned()))
        .map_err(|error| LinkError::Listen { url: format!("unix://{}", path.display()), error })
}

fn tcp_link(stream: TcpStream, peer: SocketAddr) -> io::Result<Link> {
    stream.set_nodelay(true)?;
    Ok(Link {
        reader: Box::new(stream.try_clone()?),
        socket: Some(stream.try_clone()?.into()),
        writer: Box::new(stream),
        peer: peer.to_string(),
    })
}

fn unix_link(stream: UnixStream, path: &Path) -> io::Result<Link> {
    Ok(Link {
        reader: Box::new(stream.try_clone()?),
        socket: Some(stream.try_clone()?.into()),
        writer: Box::new(stream),
        peer: format!("unix {}", path.display()),
    })
}

/// An open serial line.
#[derive(Debug)]
pub enum Port {
    /// One with a rate.
    Line(TTYPort),
    /// A terminal on a system that cannot set rates, which is an emulator. It is raw all the same.
    Rateless(File),
}

impl Port {
    fn open(path: &Path, baud: u32) -> serialport::Result<Self> {
        let builder = serialport::new(path.to_string_lossy(), baud).timeout(SERIAL_PATIENCE);
        TTYPort::open(&builder).map(Self::Line).or_else(|error| {
            // Raw mode was set before the rate could not be.
            let file = File::options().read(true).write(true).open(path).map_err(|_| error.clone())?;
            match rustix::termios::tcgetattr(&file) {
                Err(Errno::NOSYS) => Ok(Self::Rateless(file)),
                _ => Err(error),
            }
        })
    }

    fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Line(port) => Ok(Self::Line(port.try_clone_native()?)),
            Self::Rateless(file) => file.try_clone().map(Self::Rateless),
        }
    }
}

fn serve_serial(port: Port, path: &Path, baud: u32, serve: &impl Fn(Link)) -> io::Result<()> {
    if matches!(port, Port::Rateless(_)) {
        log::line(format_args!("{}: this system sets no rates; it stays at what it has", path.display()));
    }
    let mut next = Some(port);
    loop {
        let opened = next.take().map_or_else(|| Port::open(path, baud), Ok);
        if let Ok(port) = opened
            && let Ok(writer) = port.try_clone()
        {
            serve(Link {
                reader: Box::new(Patient(port)),
                writer: Box::new(Patient(writer)),
                socket: None,
                peer: format!("serial {}", path.display()),
            });
        }
        thread::sleep(REOPEN);
    }
}

/// A serial port whose timeouts are nobody's concern.
struct Patient(Port);

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match &mut self.0 {
                Port::Line(port) => port.read(buffer),
                Port::Rateless(file) => file.read(buffer),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                read => return read,
            }
        }
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let written = match &mut self.0 {
                Port::Line(port) => port.write(bytes),
                Port::Rateless(file) => file.write(bytes),
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // TTYPort's flush waits until the last bit is on the line: nobody needs that.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_on_the_network_is_refused_with_the_way_around() {
        let error = Listener::bind(&Endpoint::Tcp("0.0.0.0:0".to_owned())).unwrap_err().to_string();
        assert!(error.contains("ssh -L") && error.contains("--stdio"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn a_dead_agents_socket_gives_way_and_a_live_ones_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let live = Listener::bind(&Endpoint::Unix(path.clone())).unwrap();
        assert!(matches!(Listener::bind(&Endpoint::Unix(path.clone())), Err(LinkError::Taken(_))));
        drop(live);
        assert!(path.exists(), "dropping a listener leaves its file: the case to reclaim");
        Listener::bind(&Endpoint::Unix(path)).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::bind(&Endpoint::Unix(path.clone())), Err(LinkError::NotASocket(_))));
        assert_eq!(std::fs::read(path).unwrap(), b"precious");
    }
}

//! Bytes to and from an agent, whatever lies between, with a deadline on every read.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serialport::SerialPort;

use super::DeviceUrl;

/// The shortest wait that a socket takes; zero would mean for ever.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// A serial line that takes nothing for this long is stuck; what was to be said is said again.
const SERIAL_WRITE_WAIT: Duration = Duration::from_secs(5);

/// An open link.
pub struct Stream {
    kind: Kind,
    /// Deadline last set, so that it is set again only when it changes.
    timeout: Option<Duration>,
}

enum Kind {
    Tcp(TcpStream),
    Unix(UnixStream),
    Serial(Box<dyn SerialPort>),
    Child { socket: UnixStream, child: Child },
    Closed,
}

impl Stream {
    /// Opens the link; for `local:` and `exec:` starts the process. `probe:` is [`probe`](super::probe)'s.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(url: &DeviceUrl, timeout: Duration) -> io::Result<Self> {
        let kind = match url {
            DeviceUrl::Tcp(address) => Kind::Tcp(connect(address, timeout)?),
            DeviceUrl::Unix(path) => Kind::Unix(UnixStream::connect(path)?),
            DeviceUrl::Serial { path, baud, .. } => {
                let port = serialport::new(path.to_string_lossy(), *baud).timeout(timeout).open()?;
                Kind::Serial(port)
            }
            DeviceUrl::Probe { .. } => return Err(io::ErrorKind::Unsupported.into()),
            // In the terminal's foreground, for ssh may have to ask for a password there.
            DeviceUrl::Exec(command) => child(Command::new(&command[0]).args(&command[1..]))?,
            DeviceUrl::Local(options) => {
                let mut command = Command::new(local_agent());
                // A terminal's Ctrl-C is this program's to handle.
                child(command.args(["serve", "--stdio", "--quiet"]).args(options).process_group(0))?
            }
        };
        Ok(Self { kind, timeout: None })
    }

    /// A link over a socket that somebody else opened.
    #[must_use]
    pub const fn over(socket: UnixStream) -> Self {
        Self { kind: Kind::Unix(socket), timeout: None }
    }

    /// A link that is no more.
    #[must_use]
    pub const fn closed() -> Self {
        Self { kind: Kind::Closed, timeout: None }
    }

    /// Reads what is there, waiting at most `timeout` for the first byte; `Ok(0)` means that nothing came.
    ///
    /// # Errors
    /// What the system says; the end of the stream is [`io::ErrorKind::UnexpectedEof`].
    pub fn read(&mut self, buffer: &mut [u8], timeout: Duration) -> io::Result<usize> {
        let timeout = timeout.max(SHORTEST_WAIT);
        if self.timeout != Some(timeout) {
            match &mut self.kind {
                Kind::Tcp(socket) => socket.set_read_timeout(Some(timeout))?,
                Kind::Unix(socket) | Kind::Child { socket, .. } => socket.set_read_timeout(Some(timeout))?,
                Kind::Serial(port) => port.set_timeout(timeout)?,
                Kind::Closed => {}
            }
            self.timeout = Some(timeout);
        }
        let read = match &mut self.kind {
            Kind::Tcp(socket) => socket.read(buffer),
            Kind::Unix(socket) | Kind::Child { socket, .. } => socket.read(buffer),
            Kind::Serial(port) => port.read(buffer),
            Kind::Closed => return Err(io::ErrorKind::NotConnected.into()),
        };
        match read {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, self.end())),
            Err(error) if is_nothing_yet(error.kind()) => Ok(0),
            other => other,
        }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// What the system says.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.kind {
            Kind::Tcp(socket) => socket.write_all(bytes),
            Kind::Unix(socket) | Kind::Child { socket, .. } => socket.write_all(bytes),
            Kind::Serial(port) => {
                // A port has one deadline for both ways, and a read's may be a millisecond.
                port.set_timeout(SERIAL_WRITE_WAIT)?;
                self.timeout = Some(SERIAL_WRITE_WAIT);
                port.write_all(bytes)
            }
            Kind::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Why the stream ended.
    fn end(&mut self) -> String {
        match &mut self.kind {
            Kind::Child { child, .. } => match child.wait() {
                Ok(status) => format!("its process ended: {status}"),
                Err(error) => format!("its process cannot be watched: {error}"),
            },
            _ => "the other side closed the link".to_owned(),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Kind::Child { socket, child } = &mut self.kind {
            // An agent ends with its standard input; one that does not is ended. On a busy machine it
            // takes its time, and killed it would leave its scratch folder behind.
            let _ = socket.shutdown(std::net::Shutdown::Both);
            for _ in 0..300 {
                if !matches!(child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

const fn is_nothing_yet(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Starts a process with a socket for both its standard streams: a pipe has no read deadline.
fn child(command: &mut Command) -> io::Result<Kind> {
    let (ours, theirs) = UnixStream::pair()?;
    let input: OwnedFd = theirs.try_clone()?.into();
    let output: OwnedFd = theirs.into();
    let child = command.stdin(Stdio::from(input)).stdout(Stdio::from(output)).spawn().map_err(|error| {
        let program = command.get_program().to_string_lossy().into_owned();
        io::Error::new(error.kind(), format!("{program} cannot be started ({error})"))
    })?;
    // The command holds the child's end of the socket; only the child may, or its end is never seen.
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Ok(Kind::Child { socket: ours, child })
}

/// The agent beside this program, else the one on the path.
fn local_agent() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|own| {
        // target/release/hanas, or target/release/deps/test-hash.
        own.ancestors().skip(1).take(2).map(|folder| folder.join("hanas-agent")).find(|path| path.is_file())
    });
    beside.unwrap_or_else(|| PathBuf::from("hanas-agent"))
}

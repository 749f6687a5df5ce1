//! How a device is addressed.
//!
//! | address | link |
//! |---|---|
//! | `tcp://board:7700` | TCP |
//! | `serial:///dev/ttyUSB0?baud=115200` | a serial port |
//! | `unix:///run/hanas.sock` | a unix socket |
//! | `exec:ssh board hanas-agent serve --stdio` | a command's standard input and output |
//! | `local:` or `local:--threads 2` | an agent process of this host's own, with these options |

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::LinkError;

/// Baud rate where an address names none.
pub const DEFAULT_BAUD: u32 = 115_200;
/// TCP port where an address names none.
pub const DEFAULT_PORT: u16 = 7700;

/// A parsed address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceUrl {
    /// `host:port`.
    Tcp(String),
    /// A serial port.
    Serial {
        /// The device file.
        path: PathBuf,
        /// Bits a second.
        baud: u32,
    },
    /// A unix socket.
    Unix(PathBuf),
    /// A command that speaks the protocol on its standard streams.
    Exec(Vec<String>),
    /// An agent of our own, with these options.
    Local(Vec<String>),
}

impl DeviceUrl {
    /// Whether losing the link means losing the agent.
    #[must_use]
    pub const fn is_child(&self) -> bool {
        matches!(self, Self::Exec(_) | Self::Local(_))
    }

    /// The largest chunk worth sending at once, in bytes: small on a slow line, so that answers and
    /// losses show soon.
    #[must_use]
    pub const fn chunk_bytes(&self) -> usize {
        match self {
            Self::Serial { .. } => 1 << 9,
            _ => 1 << 16,
        }
    }

    /// The command that starts an agent at this address.
    #[must_use]
    pub fn start_hint(&self) -> String {
        match self {
            Self::Tcp(address) => format!("hanas-agent serve --tcp {address}"),
            Self::Serial { baud, .. } => {
                format!("hanas-agent serve --serial PORT --baud {baud}")
            }
            Self::Unix(path) => format!("hanas-agent serve --unix {}", path.display()),
            Self::Exec(command) => command.join(" "),
            Self::Local(options) => format!("hanas-agent serve --stdio {}", options.join(" ")),
        }
    }
}

impl FromStr for DeviceUrl {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let bad = |reason: &str| LinkError::Address { text: text.to_owned(), reason: reason.to_owned() };
        let words = |rest: &str| rest.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        if let Some(rest) = text.strip_prefix("tcp://") {
            tcp(rest.trim_end_matches('/')).ok_or_else(|| bad("write tcp://HOST:PORT"))
        } else if let Some(rest) = text.strip_prefix("serial://") {
            let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
            if path.is_empty() {
                return Err(bad("write serial:///dev/ttyUSB0?baud=115200"));
            }
            let baud = match query.strip_prefix("baud=") {
                Some(rate) => rate.parse().ok().filter(|&rate| rate > 0),
                None => query.is_empty().then_some(DEFAULT_BAUD),
            };
            let baud = baud.ok_or_else(|| bad("the only option is ?baud=RATE, a whole number"))?;
            Ok(Self::Serial { path: path.into(), baud })
        } else if let Some(path) = text.strip_prefix("unix://") {
            if path.is_empty() { Err(bad("write unix:///PATH")) } else { Ok(Self::Unix(path.into())) }
        } else if let Some(command) = text.strip_prefix("exec:") {
            let command = words(command);
            if command.is_empty() {
                Err(bad("write exec:COMMAND ARGUMENTS"))
            } else {
                Ok(Self::Exec(command))
            }
        } else if let Some(options) = text.strip_prefix("local:") {
            Ok(Self::Local(words(options)))
        } else if text.starts_with("probe://") {
            Err(bad("debug probes are not supported yet; use tcp://, serial://, unix://, exec: or local:"))
        } else {
            Err(bad(
                "it is neither in the inventory (`hanas device list`) nor an address (tcp://, serial://, unix://, exec:, local:)",
            ))
        }
    }
}

fn tcp(rest: &str) -> Option<DeviceUrl> {
    let has_port = rest.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && (!host.contains(':') || host.ends_with(']')) && port.parse::<u16>().is_ok()
    });
    match rest {
        "" => None,
        _ if has_port => Some(DeviceUrl::Tcp(rest.to_owned())),
        _ if !rest.contains(':') || rest.ends_with(']') => {
            Some(DeviceUrl::Tcp(format!("{rest}:{DEFAULT_PORT}")))
        }
        _ => None,
    }
}

impl fmt::Display for DeviceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Serial { path, baud } => write!(f, "serial://{}?baud={baud}", path.display()),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Exec(command) => write!(f, "exec:{}", command.join(" ")),
            Self::Local(options) => write!(f, "local:{}", options.join(" ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_printing() {
        for text in [
            "tcp://board:7700",
            "tcp://[::1]:7700",
            "serial:///dev/ttyUSB0?baud=921600",
            "unix:///run/hanas.sock",
            "exec:ssh board hanas-agent serve --stdio",
            "local:",
            "local:--threads 2",
        ] {
            assert_eq!(text.parse::<DeviceUrl>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_left_out_is_filled_in() {
        assert_eq!("tcp://board".parse::<DeviceUrl>().unwrap(), DeviceUrl::Tcp("board:7700".to_owned()));
        let serial = "serial:///dev/ttyACM0".parse::<DeviceUrl>().unwrap();
        assert_eq!(serial, DeviceUrl::Serial { path: "/dev/ttyACM0".into(), baud: DEFAULT_BAUD });
    }

    #[test]
    fn what_is_no_address_says_how_one_looks() {
        for text in
            ["", "board", "tcp://", "tcp://a:b", "serial://", "serial:///dev/x?speed=1", "unix://", "exec:"]
        {
            let error = text.parse::<DeviceUrl>().unwrap_err().to_string();
            assert!(error.contains("is no device"), "{text}: {error}");
        }
    }
}

//! How a device is addressed.
//!
//! | address | link |
//! |---|---|
//! | `tcp://board:7700` | TCP |
//! | `serial:///dev/ttyUSB0?baud=115200` | a serial port |
//! | `unix:///run/hanas.sock` | a unix socket |
//! | `probe://1d50:6018?chip=STM32F405RGTx` | a debug probe on USB, by vendor, product and serial number |
//! | `exec:ssh board hanas-agent serve --stdio` | a command's standard input and output |
//! | `local:` or `local:--threads 2` | an agent process of this host's own, with these options |
//!
//! A chip runs models in floats or in 8-bit integers: `elements=int8` behind a serial or probe address
//! asks for the latter.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use hanas_proto::chip::Elements;

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
        /// What a chip at the other end computes in.
        elements: Elements,
    },
    /// A chip behind a debug probe.
    Probe {
        /// `vid:pid` or `vid:pid:serial`; empty for the only probe there is.
        probe: String,
        /// What probe-rs calls the chip; none to have it found out.
        chip: Option<String>,
        /// What it computes in.
        elements: Elements,
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

    /// Whether a chip behind a debug probe is meant.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        matches!(self, Self::Probe { .. })
    }

    /// The largest chunk worth sending at once, in bytes: small on a slow line, so that answers and
    /// losses show soon.
    #[must_use]
    pub const fn chunk_bytes(&self) -> usize {
        match self {
            Self::Serial { .. } | Self::Probe { .. } => 1 << 9,
            _ => 1 << 16,
        }
    }

    /// What a chip at this address computes in.
    #[must_use]
    pub const fn elements(&self) -> Elements {
        match self {
            Self::Serial { elements, .. } | Self::Probe { elements, .. } => *elements,
            _ => Elements::F32,
        }
    }

    /// What to do where the link does not open, by what the system said.
    #[must_use]
    pub fn remedy(&self, kind: io::ErrorKind) -> String {
        match (self, kind) {
            (Self::Serial { .. }, io::ErrorKind::PermissionDenied) => {
                "join the group dialout: `sudo usermod -aG dialout $USER`, then log in again".to_owned()
            }
            _ => self.start_hint(),
        }
    }

    /// What may be the matter where the link is open and no agent answers.
    #[must_use]
    pub const fn doubt(&self) -> &'static str {
        match self {
            Self::Exec(_) => "does ssh ask for a password?",
            Self::Tcp(_) => "is another program on that port?",
            _ => "is another program on that port, or the baud rate wrong?",
        }
    }

    /// How an agent is started at this address.
    #[must_use]
    pub fn start_hint(&self) -> String {
        let command = match self {
            Self::Tcp(address) => match on_another_machine(address) {
                // An agent serves its own machine only; ssh brings its port here.
                Some((host, port)) => {
                    return format!(
                        "start one with `hanas-agent serve --tcp 127.0.0.1:{port}` there, and \
                         `ssh -N -L {port}:127.0.0.1:{port} {host}` here; it is tcp://127.0.0.1:{port} then"
                    );
                }
                None => format!("hanas-agent serve --tcp {address}"),
            },
            Self::Serial { baud, .. } => {
                format!("hanas-agent serve --serial PORT --baud {baud}")
            }
            Self::Probe { .. } => format!("hanas device flash '{self}' FIRMWARE.elf"),
            Self::Unix(path) => format!("hanas-agent serve --unix {}", path.display()),
            Self::Exec(command) => command.join(" "),
            Self::Local(options) => format!("hanas-agent serve --stdio {}", options.join(" ")),
        };
        format!("start one there with `{command}`")
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
            let (path, options) = options(rest, &["baud", "elements"]).map_err(|reason| bad(&reason))?;
            if path.is_empty() {
                return Err(bad("write serial:///dev/ttyUSB0?baud=115200"));
            }
            let baud = match options.get("baud") {
                Some(rate) => rate.parse().ok().filter(|&rate| rate > 0),
                None => Some(DEFAULT_BAUD),
            };
            let baud = baud.ok_or_else(|| bad("baud= takes a whole number of bits a second"))?;
            Ok(Self::Serial { path: path.into(), baud, elements: elements_of(&options).map_err(bad)? })
        } else if let Some(rest) = text.strip_prefix("probe://") {
            let (probe, options) = options(rest, &["chip", "elements"]).map_err(|reason| bad(&reason))?;
            if !probe.is_empty() && !probe.contains(':') {
                return Err(bad("write probe://VID:PID?chip=NAME, or probe://VID:PID:SERIAL?chip=NAME"));
            }
            let chip = options.get("chip").map(|&chip| chip.to_owned());
            Ok(Self::Probe { probe: probe.to_owned(), chip, elements: elements_of(&options).map_err(bad)? })
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
        } else {
            Err(bad(
                "it is neither in the inventory (`hanas device list`) nor an address (tcp://, serial://, probe://, unix://, exec:, local:)",
            ))
        }
    }
}

/// An address and the options behind its question mark.
fn options<'a>(rest: &'a str, known: &[&str]) -> Result<(&'a str, BTreeMap<&'a str, &'a str>), String> {
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut options = BTreeMap::new();
    for option in query.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=').filter(|(key, value)| known.contains(key) && !value.is_empty()) {
            Some((key, value)) => options.insert(key, value),
            None => return Err(format!("the options are ?{}=..., not '{option}'", known.join("=...&"))),
        };
    }
    Ok((address, options))
}

fn elements_of(options: &BTreeMap<&str, &str>) -> Result<Elements, &'static str> {
    match options.get("elements") {
        None | Some(&"f32") => Ok(Elements::F32),
        Some(&"int8") => Ok(Elements::I8),
        Some(_) => Err("elements= takes f32 or int8"),
    }
}

/// How the elements stand in an address, behind other options.
const fn elements_option(elements: Elements) -> &'static str {
    match elements {
        Elements::F32 => "",
        Elements::I8 => "elements=int8",
    }
}

/// Host and port, where the host is not this one.
fn on_another_machine(address: &str) -> Option<(&str, &str)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    (!is_here).then_some((host, port))
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
            Self::Serial { path, baud, elements } => {
                let option = elements_option(*elements);
                let and = if option.is_empty() { "" } else { "&" };
                write!(f, "serial://{}?baud={baud}{and}{option}", path.display())
            }
            Self::Probe { probe, chip, elements } => {
                let chip = chip.as_ref().map(|chip| format!("chip={chip}"));
                let option = elements_option(*elements);
                let all = chip.into_iter().chain((!option.is_empty()).then(|| option.to_owned()));
                let options = all.collect::<Vec<_>>().join("&");
                write!(f, "probe://{probe}{}{options}", if options.is_empty() { "" } else { "?" })
            }
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
            "serial:///dev/ttyACM0?baud=115200&elements=int8",
            "probe://1d50:6018",
            "probe://1d50:6018:127.0.0.1:4444?chip=STM32F405RGTx",
            "probe://?chip=STM32F405RGTx&elements=int8",
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
        let (path, elements) = ("/dev/ttyACM0".into(), Elements::F32);
        assert_eq!(serial, DeviceUrl::Serial { path, baud: DEFAULT_BAUD, elements });
    }

    #[test]
    fn what_to_do_where_nothing_answers_fits_the_address() {
        let hint = |text: &str, kind| text.parse::<DeviceUrl>().unwrap().remedy(kind);
        for address in ["127.0.0.1:7700", "[::1]:7700", "localhost:7700"] {
            let hint = hint(&format!("tcp://{address}"), io::ErrorKind::ConnectionRefused);
            assert_eq!(hint, format!("start one there with `hanas-agent serve --tcp {address}`"));
        }
        let far = hint("tcp://pi.local:7800", io::ErrorKind::ConnectionRefused);
        for part in ["--tcp 127.0.0.1:7800` there", "`ssh -N -L 7800:127.0.0.1:7800 pi.local` here"] {
            assert!(far.contains(part), "{far}");
        }
        let port = "serial:///dev/ttyUSB0";
        let forbidden = hint(port, io::ErrorKind::PermissionDenied);
        assert!(forbidden.contains("dialout") && !forbidden.contains("hanas-agent"), "{forbidden}");
        assert!(hint(port, io::ErrorKind::NotFound).contains("hanas-agent serve --serial"));
    }

    #[test]
    fn commands_and_sockets_have_no_baud_rate_to_doubt() {
        let doubt = |text: &str| text.parse::<DeviceUrl>().unwrap().doubt();
        assert!(doubt("serial:///dev/ttyUSB0").contains("baud"));
        assert!(doubt("exec:ssh pi ./hanas-agent serve --stdio").contains("password"));
        for text in ["exec:ssh pi ./hanas-agent serve --stdio", "tcp://127.0.0.1:7700"] {
            assert!(!doubt(text).contains("baud"), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_says_how_one_looks() {
        for text in [
            "",
            "board",
            "tcp://",
            "tcp://a:b",
            "serial://",
            "serial:///dev/x?speed=1",
            "serial:///dev/x?baud=0",
            "serial:///dev/x?elements=f16",
            "probe://stlink",
            "probe://1:2?chip=",
            "unix://",
            "exec:",
        ] {
            let error = text.parse::<DeviceUrl>().unwrap_err().to_string();
            assert!(error.contains("is no device"), "{text}: {error}");
        }
    }
}

//! How the agent was started, and how sizes and durations are written.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Everything but the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The worker's part.
    pub worker: WorkerSettings,
    /// What the device is called to hosts; none: the system's host name.
    pub name: Option<String>,
    /// Folder of content.
    pub cache_folder: PathBuf,
    /// How long a lost session keeps the device from others.
    pub lease_ttl: Duration,
    /// Largest content, in bytes.
    pub max_model_bytes: u64,
}

/// What a worker is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerSettings {
    /// The agent's own program.
    pub program: PathBuf,
    /// What the program is started through, and its arguments; none: it is started itself.
    pub prefix: Vec<String>,
    /// Which runtime.
    pub runtime: RuntimeKind,
    /// The scripted runtime's script.
    pub script: Option<PathBuf>,
    /// ONNX Runtime's library; none: the system's own.
    pub ort_library: Option<PathBuf>,
    /// Where libtorch runs models.
    pub torch_device: TorchDevice,
    /// Threads of the runtime.
    pub threads: u16,
    /// Which processor the worker is bound to.
    pub pin: Pin,
    /// Address space that the worker may take, in bytes.
    pub memory_limit_bytes: u64,
    /// Weights that a model may have drawn, in bytes.
    pub max_drawn_bytes: u64,
    /// File into which the worker writes which slot it is timing: tells which one it died of.
    pub slot_file: PathBuf,
    /// How long the worker may go without a sign of life.
    pub run_limit: Duration,
}

impl WorkerSettings {
    /// The worker's command line.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![
            "worker".into(),
            "--runtime".into(),
            self.runtime.name().into(),
            "--threads".into(),
            self.threads.to_string().into(),
            "--pin".into(),
            self.pin.to_string().into(),
            "--memory-limit".into(),
            self.memory_limit_bytes.to_string().into(),
            "--max-drawn".into(),
            self.max_drawn_bytes.to_string().into(),
            "--slot-file".into(),
            self.slot_file.clone().into(),
            "--torch-device".into(),
            self.torch_device.to_string().into(),
        ];
        if let Some(script) = &self.script {
            arguments.extend(["--script".into(), script.clone().into()]);
        }
        if let Some(library) = &self.ort_library {
            arguments.extend(["--ort-library".into(), library.clone().into()]);
        }
        arguments
    }
}

/// What runs models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RuntimeKind {
    /// tract, on the processor.
    Tract,
    /// tract, on a GPU.
    TractCuda,
    /// ONNX Runtime, on the processor; its library is loaded from --ort-library.
    Ort,
    /// libtorch, on the processor or a GPU: --torch-device.
    Libtorch,
    /// Nothing: any content loads and a run does nothing. Shows what measuring itself costs.
    Null,
    /// A script says how long each run takes; for tests.
    Scripted,
}

impl RuntimeKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Tract => "tract",
            Self::TractCuda => "tract-cuda",
            Self::Ort => "ort",
            Self::Libtorch => "libtorch",
            Self::Null => "null",
            Self::Scripted => "scripted",
        }
    }
}

/// Where libtorch runs models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TorchDevice {
    /// On the processor.
    Cpu,
    /// On this GPU.
    Cuda(usize),
}

impl std::fmt::Display for TorchDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// Which processor the worker is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// The last one, where there is more than one and the runtime has one thread; else none.
    Auto,
    /// None.
    Off,
    /// This one.
    Cpu(usize),
}

impl std::fmt::Display for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("none"),
            Self::Cpu(cpu) => write!(f, "{cpu}"),
        }
    }
}

/// A word on the command line that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No size.
    #[error("'{0}' is no size; write bytes, or a number with K, M or G (2G)")]
    Size(String),
    /// No duration.
    #[error("'{0}' is no duration; write a number with ms, s or m (120s)")]
    Duration(String),
    /// No processor.
    #[error("'{0}' is no processor; write its number, none or auto")]
    Pin(String),
    /// No device of libtorch.
    #[error("'{0}' is no device of libtorch; write cpu, cuda, or a GPU's number as cuda:1")]
    TorchDevice(String),
}

/// `none`, `auto` or a processor's number.
///
/// # Errors
/// [`ReadError::Pin`].
pub fn read_pin(text: &str) -> Result<Pin, ReadError> {
    match text {
        "auto" => Ok(Pin::Auto),
        "none" => Ok(Pin::Off),
        number => number.parse().map(Pin::Cpu).map_err(|_| ReadError::Pin(text.to_owned())),
    }
}

/// `cpu`, `cuda` (the first GPU) or `cuda:1`.
///
/// # Errors
/// [`ReadError::TorchDevice`].
pub fn read_torch_device(text: &str) -> Result<TorchDevice, ReadError> {
    let gpu = match text {
        "cpu" => return Ok(TorchDevice::Cpu),
        "cuda" => Some(0),
        // More digits are no GPU's number, and libtorch's would overflow.
        gpu => gpu.strip_prefix("cuda:").and_then(|number| number.parse::<u8>().ok()),
    };
    gpu.map(|gpu| TorchDevice::Cuda(gpu.into())).ok_or_else(|| ReadError::TorchDevice(text.to_owned()))
}

/// `2G`, `512M`, `64K` (binary) or plain bytes.
///
/// # Errors
/// [`ReadError::Size`].
pub fn read_size(text: &str) -> Result<u64, ReadError> {
    let error = || ReadError::Size(text.to_owned());
    let (number, shift) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(number) => (
            number,
            if text.ends_with('K') {
                10
            } else if text.ends_with('M') {
                20
            } else {
                30
            },
        ),
        None => (text, 0),
    };
    let number: u64 = number.parse().map_err(|_| error())?;
    number.checked_mul(1 << shift).filter(|&size| size > 0).ok_or_else(error)
}

/// `500ms`, `120s`, `2m`.
///
/// # Errors
/// [`ReadError::Duration`].
pub fn read_duration(text: &str) -> Result<Duration, ReadError> {
    let error = || ReadError::Duration(text.to_owned());
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
    let number: u32 = text[..digits].parse().map_err(|_| error())?;
    match &text[digits..] {
        "ms" => Ok(Duration::from_millis(u64::from(number))),
        "s" => Ok(Duration::from_secs(u64::from(number))),
        "m" => Ok(60 * Duration::from_secs(u64::from(number))),
        _ => Err(error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_read_and_nonsense_is_named() {
        assert_eq!(read_size("2G"), Ok(2 << 30));
        assert_eq!(read_size("64K"), Ok(64 << 10));
        assert_eq!(read_size("17"), Ok(17));
        for bad in ["", "G", "-1", "1.5G", "2T", "0", "99999999999999G"] {
            assert_eq!(read_size(bad), Err(ReadError::Size(bad.to_owned())));
        }
        assert_eq!(read_duration("120s"), Ok(Duration::from_secs(120)));
        assert_eq!(read_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(read_duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "5", "s", "1h", "-1s"] {
            assert_eq!(read_duration(bad), Err(ReadError::Duration(bad.to_owned())));
        }
        assert_eq!(read_pin("3"), Ok(Pin::Cpu(3)));
        assert_eq!(read_pin("none"), Ok(Pin::Off));
        assert!(read_pin("all").is_err());
    }
}

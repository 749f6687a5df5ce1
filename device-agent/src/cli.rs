//! The command line: `serve` for people, `worker` for the agent itself.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use nix::sys::signal::{SigSet, Signal};

use crate::connection;
use crate::facts::memory_bytes;
use crate::link::{Endpoint, Listener};
use crate::scratch::Scratch;
use crate::settings::{
    Pin, RuntimeKind, Settings, TorchDevice, WorkerSettings, read_duration, read_pin, read_size,
    read_torch_device,
};
use crate::supervisor::Supervisor;
use crate::{log, worker};

/// Interrupted, as shells count: 128 and the signal's number.
const INTERRUPTED: u8 = 130;

/// Where this very program lies, also when its file was replaced meanwhile.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Runs ONNX models on this device and times them for a hanas host.
#[derive(Debug, Parser)]
#[command(name = "hanas-agent", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Wait for hosts.
    Serve(Serve),
    /// What the agent starts to run models in.
    #[command(hide = true)]
    Worker(Worker),
}

#[derive(Debug, Args)]
#[group(id = "endpoint", required = true, multiple = false)]
struct Where {
    /// Wait on a loopback address, as 127.0.0.1:7700; port 0 takes a free one.
    #[arg(long, value_name = "ADDR")]
    tcp: Option<String>,
    /// Wait on a unix socket.
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
    /// Wait on a serial port.
    #[arg(long, value_name = "PATH")]
    serial: Option<PathBuf>,
    /// Talk on stdin and stdout, as through ssh, and end with them.
    #[arg(long)]
    stdio: bool,
}

#[derive(Debug, Args)]
struct Serve {
    #[command(flatten)]
    link: Where,
    /// Bits a second of the serial port.
    #[arg(long, default_value_t = 115_200)]
    baud: u32,
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// What the device is called; boards of one kind need different names to have profiles of their own
    /// [default: the system's host name].
    #[arg(long)]
    name: Option<String>,
    /// Which processor a worker of one thread is bound to: a number below 64, none, or auto (the last, if
    /// the runtime has one thread).
    #[arg(long, default_value = "auto", value_parser = read_pin)]
    pin: Pin,
    /// Address space that the worker may take [default: three quarters of the memory; with a GPU all, for
    /// its driver reserves more than there is memory].
    #[arg(long, value_name = "SIZE", value_parser = read_size)]
    memory_limit: Option<u64>,
    /// Start the worker through this command, as `chrt --fifo 10`, or an emulator; split at spaces.
    #[arg(long, value_name = "COMMAND", default_value = "")]
    worker_prefix: String,
    /// How long one load or run may take.
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = read_duration)]
    run_limit: Duration,
    /// Where content is kept from one start to the next [default: a folder that goes with the agent].
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// How long a host whose link is gone keeps the device from others.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = read_duration)]
    lease_ttl: Duration,
    /// Largest content that is taken.
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = read_size)]
    max_model: u64,
    /// Log trouble only, not which hosts come and go.
    #[arg(long, short, overrides_with = "quiet")]
    quiet: bool,
}

#[derive(Debug, Args)]
struct RuntimeArgs {
    /// What runs models.
    #[arg(long, value_enum, default_value = "tract")]
    runtime: RuntimeKind,
    /// The scripted runtime's script.
    #[arg(long, value_name = "FILE", required_if_eq("runtime", "scripted"))]
    script: Option<PathBuf>,
    /// ONNX Runtime's library: libonnxruntime.so.* of the Python wheel `onnxruntime`, or any other build
    /// [default: the system's libonnxruntime.so].
    #[arg(long, value_name = "FILE", env = "ORT_DYLIB_PATH")]
    ort_library: Option<PathBuf>,
    /// Where libtorch runs models: cpu, cuda, or cuda:1 for the second GPU.
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = read_torch_device)]
    torch_device: TorchDevice,
    /// Threads of the runtime.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
}

#[derive(Debug, Args)]
struct Worker {
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[arg(long, value_parser = read_pin)]
    pin: Pin,
    #[arg(long)]
    memory_limit: u64,
    #[arg(long)]
    max_drawn: u64,
    #[arg(long)]
    slot_file: PathBuf,
}

/// How serving ends.
enum Ending {
    /// Ctrl-C or a request to end.
    Interrupted,
    /// The only link there can be is closed, or listening failed.
    Closed(std::io::Result<()>),
}

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(serve) => self::serve(&serve),
        Command::Worker(worker) => {
            worker::run(&worker.settings()).map(|()| ExitCode::SUCCESS).map_err(Into::into)
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("hanas-agent: {error:#}");
        ExitCode::FAILURE
    })
}

fn serve(serve: &Serve) -> Result<ExitCode> {
    if serve.quiet {
        log::only_trouble();
    }
    serve.check()?;
    if serve.link.stdio {
        // A terminal's Ctrl-C reaches the host's children as well. It is the host's to handle: this agent
        // ends with its stdin. Threads inherit what is blocked, so this comes before there are any.
        SigSet::from(Signal::SIGINT).thread_block().context("cannot leave Ctrl-C to the host")?;
    }
    let scratch =
        Scratch::new().context("no room for temporary files; set TMPDIR to a folder that can be written")?;
    let slot_file = scratch.path().join("slot");
    std::fs::write(&slot_file, []).context("cannot write temporary files")?;
    let listener = Listener::bind(&serve.link.endpoint(serve.baud))?;
    let socket_file = listener.socket_file();
    let cache_folder = serve.cache_dir.clone().unwrap_or_else(|| scratch.path().join("content"));

    let (ends, ended) = mpsc::channel();
    let interrupts = ends.clone();
    // Fails only where there is a handler already, and there is none.
    ctrlc::set_handler(move || drop(interrupts.send(Ending::Interrupted))).context("no signal handler")?;
    let supervisor = Supervisor::start(serve.settings(slot_file, cache_folder))?;
    if let Some(url) = listener.url() {
        writeln!(std::io::stdout(), "listening on {url}").context("nobody reads the address on stdout")?;
    }
    let hosts = std::sync::Arc::clone(&supervisor);
    thread::spawn(move || {
        let end = listener.run(move |link| connection::serve(link, &hosts));
        ends.send(Ending::Closed(end)).ok();
    });
    // A sender lives in the signal handler, so this ends with a message.
    let ending = ended.recv();
    supervisor.shut_down();
    if let Some(file) = socket_file {
        std::fs::remove_file(file).ok();
    }
    match ending {
        Ok(Ending::Closed(end)) => end.map(|()| ExitCode::SUCCESS).context("cannot accept hosts any more"),
        _ => Ok(ExitCode::from(INTERRUPTED)),
    }
}

impl Where {
    fn endpoint(&self, baud: u32) -> Endpoint {
        match self {
            Self { tcp: Some(address), .. } => Endpoint::Tcp(address.clone()),
            Self { unix: Some(path), .. } => Endpoint::Unix(path.clone()),
            Self { serial: Some(path), .. } => Endpoint::Serial { path: path.clone(), baud },
            _ => Endpoint::Stdio,
        }
    }
}

impl Serve {
    /// Whether arguments that are right each by itself go together.
    fn check(&self) -> Result<()> {
        let threads = self.runtime.threads;
        if let Pin::Cpu(cpu) = self.pin {
            anyhow::ensure!(
                threads == 1,
                "--pin {cpu} would put {threads} threads on one processor; leave it out, or take --threads 1"
            );
        }
        Ok(())
    }

    fn settings(&self, slot_file: PathBuf, cache_folder: PathBuf) -> Settings {
        // Where the system does not tell its memory, its own limits have to do.
        let most = if self.runtime.is_on_gpu() { 0 } else { memory_bytes() / 4 * 3 };
        let memory_limit_bytes = self.memory_limit.unwrap_or(if most == 0 { u64::MAX } else { most });
        let worker = WorkerSettings {
            program: OWN_PROGRAM.into(),
            prefix: self.worker_prefix.split_whitespace().map(str::to_owned).collect(),
            runtime: self.runtime.runtime,
            script: self.runtime.script.clone(),
            ort_library: self.runtime.ort_library.clone(),
            torch_device: self.runtime.torch_device,
            threads: self.runtime.threads,
            pin: self.pin,
            memory_limit_bytes,
            max_drawn_bytes: self.max_model,
            slot_file,
            run_limit: self.run_limit,
        };
        Settings {
            worker,
            name: self.name.clone(),
            cache_folder,
            lease_ttl: self.lease_ttl,
            max_model_bytes: self.max_model,
        }
    }
}

impl RuntimeArgs {
    fn is_on_gpu(&self) -> bool {
        match self.runtime {
            RuntimeKind::TractCuda => true,
            RuntimeKind::Libtorch => self.torch_device != TorchDevice::Cpu,
            _ => false,
        }
    }
}

impl Worker {
    fn settings(&self) -> WorkerSettings {
        WorkerSettings {
            program: OWN_PROGRAM.into(),
            // A worker starts none.
            prefix: Vec::new(),
            runtime: self.runtime.runtime,
            script: self.runtime.script.clone(),
            ort_library: self.runtime.ort_library.clone(),
            torch_device: self.runtime.torch_device,
            threads: self.runtime.threads,
            pin: self.pin,
            memory_limit_bytes: self.memory_limit,
            max_drawn_bytes: self.max_drawn,
            slot_file: self.slot_file.clone(),
            // The supervisor's clock; the worker is killed by it.
            run_limit: Duration::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn one_link_is_needed_and_no_more() {
        assert!(Cli::try_parse_from(["hanas-agent", "serve"]).is_err());
        assert!(Cli::try_parse_from(["hanas-agent", "serve", "--stdio", "--unix", "a"]).is_err());
        assert!(Cli::try_parse_from(["hanas-agent", "serve", "--stdio", "--runtime", "scripted"]).is_err());
        Cli::try_parse_from(["hanas-agent", "serve", "--tcp", "127.0.0.1:0"]).unwrap();
    }

    #[test]
    fn several_threads_are_not_put_on_one_processor() {
        for (options, good) in [("--pin 1", true), ("--threads 4", true), ("--pin 1 --threads 4", false)] {
            let words = "hanas-agent serve --stdio".split(' ').chain(options.split(' '));
            let Command::Serve(serve) = Cli::try_parse_from(words).unwrap().command else { unreachable!() };
            assert_eq!(serve.check().is_ok(), good, "{options}");
        }
    }
}

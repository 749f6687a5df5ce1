//! A small host on `hanas-proto` alone, and the agent's real process to talk to.
#![allow(dead_code, unreachable_pub, reason = "a module of every test file, each of which uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hanas_proto::fault::FaultCode;
use hanas_proto::frame::{CRC_BYTES, Deframer, Step, decode, encode, framed_len};
use hanas_proto::handshake::{DIALECT, Hello, MAGIC};
use hanas_proto::measure::{Block, Body, LoadOptions, MeasurePlan};
use hanas_proto::samples::SeriesReader;
use hanas_proto::{Digest, Nanos, ToAgent, ToHost};

/// A test that waits longer than this has failed; nothing is timed against it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Longest payload of this host, in bytes.
pub const MAX_FRAME: usize = 66 * 1024;

/// A plan of one round of ten runs over slot 0.
pub const PLAN: MeasurePlan<'static> =
    MeasurePlan { slots: &[1], rounds: 1, warmup: 0, runs: 10, seed: 1, visit_limit: Nanos(0) };

/// An agent's process. Ends with the value.
pub struct Agent {
    pub process: Child,
    pub url: String,
}

impl Agent {
    /// Starts `hanas-agent serve` and waits for its address.
    pub fn serve(arguments: &[&str]) -> Self {
        let mut process = command(arguments).stdin(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.strip_prefix("listening on ").expect("the agent says where it listens");
        Self { url: url.trim().to_owned(), process }
    }

    /// On a free TCP port.
    pub fn tcp(arguments: &[&str]) -> Self {
        Self::serve(&[&["--tcp", "127.0.0.1:0"], arguments].concat())
    }

    /// A connection on which nothing was said yet.
    pub fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.url.strip_prefix("tcp://").unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client::new(stream.try_clone().unwrap(), stream)
    }

    /// A connection with that session open.
    pub fn open(&self, session: u64) -> Client {
        let mut client = self.connect();
        client.hello(session);
        client
    }

    /// Process numbers of its workers.
    pub fn workers(&self) -> Vec<u32> {
        let id = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let all = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
        let of_threads = all
            .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
            .collect::<Vec<_>>()
            .join(" ");
        let mut workers: Vec<u32> =
            (children + " " + &of_threads).split_whitespace().map(|id| id.parse().unwrap()).collect();
        workers.sort_unstable();
        workers.dedup();
        workers
    }

    /// Sends a signal and waits for the end.
    pub fn end_with(&mut self, signal: rustix::process::Signal) -> std::process::ExitStatus {
        let id = rustix::process::Pid::from_raw(self.process.id().cast_signed()).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
        self.process.wait().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The command of the agent under test, another than this build's: `qemu-aarch64-static PATH`, split at
/// spaces. All but the last word are what its worker is started through as well.
pub const OTHER_AGENT: &str = "HANAS_TEST_AGENT";

/// What the agent under test is started through, and its program.
pub fn emulator_and_program() -> (Vec<String>, String) {
    let text = std::env::var(OTHER_AGENT).unwrap_or_default();
    let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    let program = words.pop().unwrap_or_else(|| env!("CARGO_BIN_EXE_hanas-agent").to_owned());
    (words, program)
}

/// The agent's command, its stderr thrown away.
pub fn command(arguments: &[&str]) -> Command {
    let (emulator, program) = emulator_and_program();
    let mut words = emulator.iter().chain([&program]);
    let mut command = Command::new(words.next().unwrap_or(&program));
    command.args(words).arg("serve").args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
    if !emulator.is_empty() && !arguments.contains(&"--worker-prefix") {
        command.args(["--worker-prefix", &emulator.join(" ")]);
    }
    command
}

/// A block, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub job: u32,
    pub seq: u32,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Samples { round: u16, series: Vec<(u16, Vec<u64>)> },
    Nodes { round: u16, series: Vec<(u16, Vec<u64>)> },
    Context { round: u16 },
    End(String),
}

impl Taken {
    pub fn of(block: &Block<'_>) -> Self {
        let read = |bytes| {
            let series = SeriesReader::new(bytes).map(|series| {
                let series = series.unwrap();
                (series.key, series.map(|time| time.0).collect())
            });
            series.collect()
        };
        let what = match block.body {
            Body::Samples { round, series } => What::Samples { round, series: read(series) },
            Body::Nodes { round, series } => What::Nodes { round, series: read(series) },
            Body::Context { round, .. } => What::Context { round },
            Body::End(end) => What::End(format!("{end:?}")),
        };
        Self { job: block.job, seq: block.seq, what }
    }

    pub const fn is_end(&self) -> bool {
        matches!(self.what, What::End(_))
    }
}

/// All timings in the blocks, by slot, in order.
pub fn timings(blocks: &[Taken], slot: u16) -> Vec<u64> {
    let series = blocks.iter().filter_map(|block| match &block.what {
        What::Samples { series, .. } => Some(series),
        _ => None,
    });
    series.flatten().filter(|(key, _)| *key == slot).flat_map(|(_, times)| times.clone()).collect()
}

/// A model as the agent described it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Described {
    pub nodes: Vec<(String, String)>,
    pub ports: Vec<(bool, String, String)>,
}

/// A fault, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub code: FaultCode,
    pub text: String,
}

/// One host on one link.
pub struct Client {
    reader: Box<dyn Read + Send>,
    pub writer: Box<dyn Write + Send>,
    deframer: Deframer<Vec<u8>>,
    input: Vec<u8>,
    scratch: Vec<u8>,
    out: Vec<u8>,
    last_id: u32,
}

impl Client {
    pub fn new(reader: impl Read + Send + 'static, writer: impl Write + Send + 'static) -> Self {
        Self {
            reader: Box::new(reader),
            writer: Box::new(writer),
            deframer: Deframer::new(vec![0; framed_len(MAX_FRAME)]),
            input: Vec::new(),
            scratch: vec![0; MAX_FRAME + CRC_BYTES],
            out: vec![0; framed_len(MAX_FRAME)],
            last_id: 0,
        }
    }

    pub fn unix(path: &std::path::Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::new(stream.try_clone().unwrap(), stream)
    }

    pub fn id(&mut self) -> u32 {
        self.last_id += 1;
        self.last_id
    }

    pub fn send(&mut self, message: &ToAgent<'_>) {
        let frame = encode(message, &mut self.scratch, &mut self.out).unwrap();
        self.writer.write_all(frame).unwrap();
        self.writer.flush().unwrap();
    }

    /// Takes messages until `pick` finds the one it wants.
    pub fn wait<T>(&mut self, mut pick: impl FnMut(&ToHost<'_>) -> Option<T>) -> T {
        loop {
            if let Some(found) = self.step(&mut pick).expect("the agent hung up") {
                return found;
            }
        }
    }

    /// Shows one more message, if a whole one is there or comes; an error at the link's end.
    fn step<T>(&mut self, pick: &mut impl FnMut(&ToHost<'_>) -> Option<T>) -> std::io::Result<Option<T>> {
        if self.input.is_empty() {
            let mut buffer = vec![0; 64 * 1024];
            let read = match self.reader.read(&mut buffer) {
                // A read with a deadline is not taken up again after a signal.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(None),
                read => read?,
            };
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            self.input = buffer[..read].to_vec();
        }
        let (taken, step) = self.deframer.feed(&self.input);
        let found = match step {
            Step::Frame(payload) => pick(&decode::<ToHost<'_>>(payload).unwrap()),
            Step::Incomplete => None,
            Step::Broken(error) => panic!("from the agent: {error}"),
        };
        self.input.drain(..taken);
        Ok(found)
    }

    /// Whether the agent closes the link.
    pub fn is_hung_up(&mut self) -> bool {
        loop {
            match self.step(&mut |_| None::<()>) {
                Ok(_) => {}
                Err(error) => {
                    return !matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    );
                }
            }
        }
    }

    pub fn say_hello(&mut self, session: u64) {
        let max_frame = MAX_FRAME as u32;
        // Ends whatever half frame lies on the line, as the frame layer advises.
        self.writer.write_all(&[0]).unwrap();
        let hello = Hello { magic: MAGIC, dialect: DIALECT, session, max_frame, host: "test" };
        self.send(&ToAgent::Hello(hello));
    }

    /// Opens a session; returns whether it was known.
    pub fn hello(&mut self, session: u64) -> bool {
        self.say_hello(session);
        self.wait(|message| match message {
            ToHost::Welcome(welcome) => Some(welcome.resumed),
            _ => None,
        })
    }

    /// The end of the answer to `id`: done, loaded, or a fault.
    pub fn done(&mut self, id: u32) -> Result<(), Fault> {
        self.wait(|message| match message {
            ToHost::Done { id: done } if *done == id => Some(Ok(())),
            ToHost::Loaded(loaded) if loaded.id == id => Some(Ok(())),
            ToHost::Fault { id: failed, code, text } if *failed == id => {
                Some(Err(Fault { code: *code, text: (*text).to_owned() }))
            }
            _ => None,
        })
    }

    /// Uploads content, going back where the agent says so; one chunk at a time.
    pub fn upload(&mut self, data: &[u8]) -> Result<Digest, Fault> {
        let digest = Digest(*blake3::hash(data).as_bytes());
        let id = self.id();
        self.send(&ToAgent::BlobOpen { id, digest, size: data.len() as u64 });
        let mut held = self.held(id)?;
        while (held as usize) < data.len() {
            let end = data.len().min(held as usize + 64 * 1024);
            self.send(&ToAgent::BlobChunk { id, offset: held, data: &data[held as usize..end] });
            held = self.held(id)?;
        }
        Ok(digest)
    }

    pub fn held(&mut self, id: u32) -> Result<u64, Fault> {
        self.wait(|message| match message {
            ToHost::BlobHeld { id: of, held } if *of == id => Some(Ok(*held)),
            ToHost::Fault { id: of, code, text } if *of == id => {
                Some(Err(Fault { code: *code, text: (*text).to_owned() }))
            }
            _ => None,
        })
    }

    /// Uploads and loads.
    pub fn load(&mut self, slot: u16, model: &[u8], options: LoadOptions) -> Result<Described, Fault> {
        let digest = self.upload(model)?;
        let id = self.id();
        self.send(&ToAgent::Load { id, slot, digest, options });
        let mut described = Described::default();
        self.wait(|message| match message {
            ToHost::Node(node) if node.id == id => {
                assert_eq!(usize::from(node.index), described.nodes.len());
                described.nodes.push((node.name.to_owned(), node.op.to_owned()));
                None
            }
            ToHost::Port(port) if port.id == id => {
                described.ports.push((port.is_input, port.name.to_owned(), port.fact.to_owned()));
                None
            }
            ToHost::Loaded(loaded) if loaded.id == id => {
                assert_eq!((loaded.slot, usize::from(loaded.nodes)), (slot, described.nodes.len()));
                assert_eq!(usize::from(loaded.ports), described.ports.len());
                Some(Ok(()))
            }
            ToHost::Fault { id: of, code, text } if *of == id => {
                Some(Err(Fault { code: *code, text: (*text).to_owned() }))
            }
            _ => None,
        })?;
        Ok(described)
    }

    /// Starts a job and takes all of its blocks.
    pub fn measure(&mut self, job: u32, plan: MeasurePlan<'_>) -> Vec<Taken> {
        let id = self.id();
        self.send(&ToAgent::Measure { id, job, plan });
        self.done(id).unwrap();
        self.blocks(job)
    }

    /// Takes a job's blocks up to its end.
    pub fn blocks(&mut self, job: u32) -> Vec<Taken> {
        let mut blocks = Vec::new();
        self.wait(|message| {
            let ToHost::Block(block) = message else { return None };
            if block.job != job {
                return None;
            }
            let block = Taken::of(block);
            let is_end = block.is_end();
            blocks.push(block);
            is_end.then_some(())
        });
        blocks
    }

    /// Runs a slot once on given inputs.
    pub fn infer(&mut self, slot: u16, inputs: &[u8]) -> Result<Vec<u8>, Fault> {
        let inputs = self.upload(inputs)?;
        let id = self.id();
        self.send(&ToAgent::Infer { id, slot, inputs });
        let mut outputs = Vec::new();
        self.wait(|message| match message {
            ToHost::Output { id: of, offset, data } if *of == id => {
                assert_eq!(*offset as usize, outputs.len());
                outputs.extend_from_slice(data);
                None
            }
            ToHost::Done { id: of } if *of == id => Some(Ok(())),
            ToHost::Fault { id: of, code, text } if *of == id => {
                Some(Err(Fault { code: *code, text: (*text).to_owned() }))
            }
            _ => None,
        })?;
        Ok(outputs)
    }
}

/// Asserts that blocks are numbered from 0 without gaps and end with an end.
pub fn assert_whole(blocks: &[Taken]) {
    assert!(blocks.iter().enumerate().all(|(place, block)| block.seq as usize == place), "{blocks:?}");
    assert_eq!(blocks.iter().filter(|block| block.is_end()).count(), 1);
    assert!(blocks.last().is_some_and(Taken::is_end));
}

//! The worker: orders from the supervisor in, reports out, one after another on one thread.
//!
//! While a job runs, the pipe is looked at between runs: for a stop, and for its end, which means
//! that the supervisor is gone.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hanas_device_core::measure::{Desk, Outcome, PlanError, Storage, Visited, check, chosen, measure};
use hanas_device_core::recorder::BLOCK_BYTES;
use hanas_proto::ToHost;
use hanas_proto::fault::FaultCode;
use hanas_proto::handshake::ModelForm;
use hanas_proto::measure::{Block, Body, JobEnd, LoadOptions, Loaded, MeasurePlan, Node, Port};
use hanas_proto::units::Nanos;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, getpid, kill_process};

use crate::context::{Probe, clock_resolution_ns};
use crate::limits::{self, LimitError};
use crate::orders::{Inbox, Order, Ready, Report, put};
use crate::runtime::{self, BuildError, Model, Runtime, Trouble};
use crate::settings::WorkerSettings;

/// Reports wait this long at most to be sent together.
const GATHER: Duration = Duration::from_millis(20);

/// Without anything else to report, a sign of life comes this often.
const ALIVE: Duration = Duration::from_secs(1);

/// The pipe is looked at this often between runs: a look costs a system call.
const LOOK: Duration = Duration::from_millis(1);

/// Reports that are sent without waiting for more, in bytes.
const SEND_BYTES: usize = 64 * 1024;

/// Bytes of a frame that are not a block's series or an output's data, at most.
const ENVELOPE: u32 = 64;

/// Bytes of an output in one frame, at most: on a bad line a short frame comes through sooner.
const OUTPUT_BYTES: u32 = 1024;

/// Timed runs that wait to be packed.
const TIMES: usize = 256;

/// Longest name or text that is passed on, in characters.
const TEXT: usize = 200;

/// The worker cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A limit cannot be set.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The runtime cannot be had.
    #[error(transparent)]
    Runtime(#[from] BuildError),
    /// The pipe or the slot file failed.
    #[error("the pipe to the supervisor: {0}")]
    Pipe(#[from] io::Error),
}

/// Works until the supervisor closes the pipe.
///
/// # Errors
/// [`WorkerError`] where the worker cannot be set up, or the pipe breaks.
pub fn run(settings: &WorkerSettings) -> Result<(), WorkerError> {
    let pinned = limits::apply(settings)?;
    keep_panics();
    end_with_supervisor()?;
    let mut runtime = runtime::build(settings)?;
    let mut pipe = Pipe::open(settings)?;
    let mut probe = Probe::open(pinned);
    let name = runtime.name();
    pipe.report(&Report::Ready(Ready {
        runtime: &name,
        form: ModelForm::Onnx,
        pinned,
        clock_resolution_ns: clock_resolution_ns(),
    }));
    pipe.send()?;
    while let Some(bytes) = pipe.next_order()? {
        // Both ends are one binary: bytes that are no order cannot be, and are passed over.
        if let Ok(order) = postcard::from_bytes(&bytes) {
            obey(&order, &mut *runtime, &mut pipe, &mut probe)?;
        }
        pipe.send()?;
    }
    Ok(())
}

/// Ends the process when the supervisor is gone, also in the midst of a run that takes hours. The thread
/// sleeps until then and takes nothing from the runs.
fn end_with_supervisor() -> io::Result<()> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    thread::Builder::new().name("end".to_owned()).spawn(move || {
        // No event is asked for: what is always reported is the other side's end.
        while poll(&mut [PollFd::new(&stdin, PollFlags::empty())], None).is_err() {}
        // Destructors would take from under a run what it computes with.
        kill_process(getpid(), Signal::KILL).ok();
    })?;
    Ok(())
}

fn obey(order: &Order<'_>, runtime: &mut dyn Runtime, pipe: &mut Pipe, probe: &mut Probe) -> io::Result<()> {
    match *order {
        Order::Load { id, slot, options, path } => match load(runtime, slot, options, path) {
            Ok((model, took)) => report_model(pipe, id, slot, &model, took),
            Err(trouble) => pipe.fault(id, &trouble),
        },
        Order::Clear { id } => {
            runtime.clear();
            pipe.say(ToHost::Done { id });
        }
        Order::Measure { id, job, plan, max_frame } => {
            run_job(runtime, pipe, probe, id, job, &plan, max_frame)?;
        }
        // The job it is for is over already.
        Order::Stop { .. } => {}
        Order::Infer { id, slot, inputs, max_frame } => match infer(runtime, slot, inputs) {
            Ok(outputs) => send_outputs(pipe, id, &outputs, max_frame)?,
            Err(trouble) => pipe.fault(id, &trouble),
        },
    }
    Ok(())
}

fn load(
    runtime: &mut dyn Runtime,
    slot: u16,
    options: LoadOptions,
    path: &str,
) -> Result<(Model, Nanos), Trouble> {
    let content = read(path)?;
    if let Some(folder) = Path::new(path).parent() {
        runtime.held_in(folder);
    }
    let start = Instant::now();
    let model = guard(FaultCode::Unsupported, || runtime.load(slot, &content, options))?;
    Ok((model, Nanos::from_duration(start.elapsed())))
}

fn infer(runtime: &mut dyn Runtime, slot: u16, path: &str) -> Result<Vec<u8>, Trouble> {
    let inputs = read(path)?;
    guard(FaultCode::RunFailed, || runtime.infer(slot, &inputs))
}

fn read(path: &str) -> Result<Vec<u8>, Trouble> {
    fs::read(path).map_err(|error| Trouble::new(FaultCode::Agent, format!("reading the content: {error}")))
}

fn report_model(pipe: &mut Pipe, id: u32, slot: u16, model: &Model, took: Nanos) {
    for (index, (name, op)) in (0..).zip(&model.nodes) {
        pipe.say(ToHost::Node(Node { id, index, name: cut(name), op: cut(op) }));
    }
    for (index, port) in (0..).zip(&model.ports) {
        let (name, fact) = (cut(&port.name), cut(&port.fact));
        pipe.say(ToHost::Port(Port { id, index, is_input: port.is_input, name, fact }));
    }
    let count = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
    let (nodes, ports) = (count(model.nodes.len()), count(model.ports.len()));
    pipe.say(ToHost::Loaded(Loaded { id, slot, nodes, ports, took }));
}

fn send_outputs(pipe: &mut Pipe, id: u32, outputs: &[u8], max_frame: u32) -> io::Result<()> {
    let piece = max_frame.saturating_sub(ENVELOPE).clamp(ENVELOPE, OUTPUT_BYTES) as usize;
    // The empty piece at the end tells the length: without it a lost piece would not be missed.
    for (place, data) in outputs.chunks(piece).enumerate() {
        pipe.say(ToHost::Output { id, offset: (place * piece) as u64, data });
        if pipe.out.len() >= SEND_BYTES {
            pipe.send()?;
        }
    }
    pipe.say(ToHost::Output { id, offset: outputs.len() as u64, data: &[] });
    pipe.say(ToHost::Done { id });
    Ok(())
}

fn run_job(
    runtime: &mut dyn Runtime,
    pipe: &mut Pipe,
    probe: &mut Probe,
    id: u32,
    job: u32,
    plan: &MeasurePlan<'_>,
    max_frame: u32,
) -> io::Result<()> {
    if let Err(error) = check(plan, runtime) {
        pipe.fault(id, &Trouble::from(error));
        return Ok(());
    }
    pipe.say(ToHost::Done { id });
    let limit = max_frame.saturating_sub(ENVELOPE) as usize;
    let mut desk = JobDesk { pipe, job, broken: None };
    let mut slots: Vec<Visited> = chosen(plan.slots).map(Visited::not_yet).collect();
    let storage = Storage {
        slots: &mut slots,
        times: &mut [Nanos(0); TIMES],
        // Each operator's time takes a byte at least.
        nodes: &mut vec![Nanos(0); limit],
        samples: &mut vec![0; limit.min(BLOCK_BYTES)],
        operators: &mut vec![0; limit],
    };
    let measuring = AssertUnwindSafe(|| measure(runtime, probe, plan, storage, &mut desk));
    let outcome = catch_unwind(measuring);
    if let Some(error) = desk.broken {
        return Err(error);
    }
    let outcome = outcome.unwrap_or_else(|_| {
        let slot = pipe.last_slot;
        Outcome::Fault { slot, trouble: panic_trouble(FaultCode::RunFailed) }
    });
    let end = match &outcome {
        Outcome::Completed => JobEnd::Completed,
        Outcome::Stopped => JobEnd::Stopped,
        Outcome::Fault { slot, trouble } => {
            JobEnd::Fault { code: trouble.code, slot: *slot, text: cut(&trouble.text) }
        }
    };
    pipe.block(job, Body::End(end));
    Ok(())
}

/// Calls what may panic; a panic is the model's trouble, not the other slots'.
fn guard<T>(code: FaultCode, act: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| Err(panic_trouble(code)))
}

fn panic_trouble(code: FaultCode) -> Trouble {
    let text = PANIC.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // tract panics where it gets no memory; the standard library aborts, and the supervisor sees that.
    if text.starts_with("failed to allocate") {
        let text = format!("{text}: more than the worker has; give it more with --memory-limit");
        return Trouble::new(FaultCode::TooLarge, text);
    }
    Trouble::new(code, format!("the runtime panicked: {text}"))
}

/// Where the panic hook leaves a panic's message.
static PANIC: Mutex<String> = Mutex::new(String::new());

fn keep_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("a panic without a message");
        let line = text.lines().next().unwrap_or_default();
        line.clone_into(&mut PANIC.lock().unwrap_or_else(PoisonError::into_inner));
    }));
}

fn cut(text: &str) -> &str {
    text.char_indices().nth(TEXT).map_or(text, |(end, _)| &text[..end])
}

impl From<PlanError> for Trouble {
    fn from(error: PlanError) -> Self {
        Self::new(FaultCode::BadRequest, error.to_string())
    }
}

/// The worker's end of the pipe.
struct Pipe {
    stdin: File,
    stdout: File,
    slot_file: File,
    last_slot: u16,
    inbox: Inbox,
    backlog: VecDeque<Vec<u8>>,
    out: Vec<u8>,
    sent: Instant,
    looked: Instant,
}

impl Pipe {
    fn open(settings: &WorkerSettings) -> io::Result<Self> {
        Ok(Self {
            stdin: io::stdin().as_fd().try_clone_to_owned()?.into(),
            stdout: io::stdout().as_fd().try_clone_to_owned()?.into(),
            slot_file: OpenOptions::new().write(true).open(&settings.slot_file)?,
            last_slot: 0,
            inbox: Inbox::default(),
            backlog: VecDeque::new(),
            out: Vec::new(),
            sent: Instant::now(),
            looked: Instant::now(),
        })
    }

    /// The next order; none at the pipe's end.
    fn next_order(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(order) = self.backlog.pop_front() {
                return Ok(Some(order));
            }
            if let Some(order) = self.inbox.next_payload()? {
                return Ok(Some(order.to_vec()));
            }
            if self.inbox.fill(&mut self.stdin)? == 0 {
                return Ok(None);
            }
        }
    }

    /// Whether a stop for `job` has come, without waiting. Other orders are kept for later.
    fn stop_has_come(&mut self, job: u32) -> io::Result<bool> {
        let mut ready = [PollFd::new(&self.stdin, PollFlags::IN)];
        if poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0
            && self.inbox.fill(&mut self.stdin)? == 0
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut stop = false;
        while let Some(order) = self.inbox.next_payload()? {
            match postcard::from_bytes(order) {
                Ok(Order::Stop { job: stopped }) => stop |= stopped == job,
                _ => self.backlog.push_back(order.to_vec()),
            }
        }
        Ok(stop)
    }

    fn report(&mut self, report: &Report<'_>) {
        self.out = put(report, std::mem::take(&mut self.out));
    }

    fn say(&mut self, message: ToHost<'_>) {
        self.report(&Report::Say(message));
    }

    fn block(&mut self, job: u32, body: Body<'_>) {
        // The supervisor numbers the blocks: it alone knows which have arrived when a worker dies.
        self.say(ToHost::Block(Block { job, seq: 0, body }));
    }

    fn fault(&mut self, id: u32, trouble: &Trouble) {
        self.say(ToHost::Fault { id, code: trouble.code, text: cut(&trouble.text) });
    }

    fn send(&mut self) -> io::Result<()> {
        self.stdout.write_all(&self.out)?;
        self.out.clear();
        self.sent = Instant::now();
        Ok(())
    }
}

/// The pipe, as a running job sees it.
struct JobDesk<'p> {
    pipe: &'p mut Pipe,
    job: u32,
    broken: Option<io::Error>,
}

impl JobDesk<'_> {
    fn between_runs(&mut self) -> io::Result<bool> {
        let pipe = &mut *self.pipe;
        let now = Instant::now();
        let unsent = now - pipe.sent;
        if !pipe.out.is_empty() && unsent > GATHER {
            pipe.send()?;
        } else if unsent > ALIVE {
            pipe.report(&Report::Alive);
            pipe.send()?;
        }
        if now - pipe.looked < LOOK {
            return Ok(false);
        }
        pipe.looked = now;
        pipe.stop_has_come(self.job)
    }
}

impl Desk for JobDesk<'_> {
    fn emit(&mut self, body: Body<'_>) {
        self.pipe.block(self.job, body);
    }

    fn visiting(&mut self, slot: u16) {
        self.pipe.last_slot = slot;
        // Only for the words of a death notice.
        self.pipe.slot_file.write_all_at(&slot.to_le_bytes(), 0).ok();
    }

    fn should_stop(&mut self, _now: Nanos) -> bool {
        match self.between_runs() {
            Ok(stop) => stop,
            Err(error) => {
                self.broken = Some(error);
                true
            }
        }
    }
}

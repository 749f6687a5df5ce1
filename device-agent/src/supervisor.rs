//! Who may use the device, and what becomes of their requests.
//!
//! One session at a time holds the lease and gives the worker orders; the others wait in a queue. The
//! lease passes on when its session says goodbye, or when its link has been gone for the lease's time
//! to live and somebody waits. Every lease begins with a fresh worker.
//!
//! Requests come from [`conversation`](crate::conversation), reports from the worker. All state is
//! behind one lock, which nobody holds while waiting for a host or for the worker.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use hanas_proto::ToHost;
use hanas_proto::fault::FaultCode;
use hanas_proto::measure::{Block, Body, JobEnd};

use crate::blobs::Blobs;
use crate::connection::{Framer, Outbox};
use crate::facts::{Facts, WorkerFacts};
use crate::orders::{Inbox, Order, Report, put};
use crate::process::{Reports, WorkerProcess};
use crate::session::{MAX_WAITING, Request, Session, Task};
use crate::settings::Settings;

/// Sessions known at once.
const MAX_SESSIONS: usize = 64;

/// How often time's effects are looked at: heartbeats, the lease, the run limit.
const TICK: Duration = Duration::from_millis(100);

/// A link on which nothing was sent for this long gets a heartbeat, a waiting session its place.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How often a full session is looked at again.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// How long a worker may take to get ready.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The cache folder cannot be used.
    #[error("cannot use {folder} as cache: {error}; name another with --cache-dir")]
    Cache {
        /// The folder.
        folder: String,
        /// Why.
        error: io::Error,
    },
    /// There can be no worker process.
    #[error("cannot start a worker: {0}")]
    Spawn(io::Error),
    /// The worker does not get ready.
    #[error("the worker {0}")]
    Worker(String),
}

/// The agent's shared state.
#[derive(Debug)]
pub struct Supervisor {
    /// How the agent was started.
    pub settings: Settings,
    /// What the device is.
    pub facts: Facts,
    /// Content.
    pub blobs: Mutex<Blobs>,
    core: Mutex<Core>,
    changed: Condvar,
    started: Instant,
}

/// Sessions, lease and worker.
#[derive(Debug)]
pub struct Core {
    me: Weak<Supervisor>,
    /// By the hosts' numbers.
    pub sessions: BTreeMap<u64, Session>,
    holder: Option<u64>,
    queue: VecDeque<u64>,
    worker: Option<WorkerProcess>,
    generation: u32,
    /// What the first worker said of itself.
    pub worker_facts: Option<WorkerFacts>,
    last_end: String,
    last_queue_news: Instant,
    framer: Framer,
}

impl Supervisor {
    /// Starts the first worker and waits until it is ready.
    ///
    /// # Errors
    /// [`StartError`] where the cache or the worker cannot be used.
    pub fn start(settings: Settings) -> Result<Arc<Self>, StartError> {
        let blobs =
            Blobs::open_folder(&settings.cache_folder, settings.max_model_bytes).map_err(|error| {
                StartError::Cache { folder: settings.cache_folder.display().to_string(), error }
            })?;
        let supervisor = Arc::new_cyclic(|me| Self {
            facts: Facts::gather(),
            blobs: Mutex::new(blobs),
            core: Mutex::new(Core::new(Weak::clone(me))),
            changed: Condvar::new(),
            started: Instant::now(),
            settings,
        });
        let mut core = supervisor.core();
        core.start_worker().map_err(StartError::Spawn)?;
        while core.worker_facts.is_none() {
            let late = core.worker.as_ref().is_some_and(|worker| worker.since.elapsed() > START_LIMIT);
            if core.worker.is_none() || late {
                let how = if late { "does not get ready" } else { &core.last_end };
                return Err(StartError::Worker(how.to_owned()));
            }
            core = supervisor.changed.wait_timeout(core, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(core);
        let ticking = Arc::downgrade(&supervisor);
        thread::spawn(move || {
            while let Some(supervisor) = ticking.upgrade() {
                supervisor.tick();
                drop(supervisor);
                thread::sleep(TICK);
            }
        });
        Ok(supervisor)
    }

    /// Ends the worker. Hosts find their links closed when the process ends.
    pub fn shut_down(&self) {
        if let Some(worker) = self.core().worker.take() {
            worker.kill();
        }
    }

    /// Exclusive use of sessions, lease and worker.
    pub fn core(&self) -> MutexGuard<'_, Core> {
        // A panic in another thread left whole values behind: no update spans a call that can panic.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whoever waits for room that there may be some.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    fn tick(&self) {
        let mut core = self.core();
        core.expire(self.settings.lease_ttl);
        core.announce_queue();
        let uptime_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        core.heartbeat(uptime_ms);
        core.limit_runs(self.settings.worker.run_limit);
    }

    /// Holds a worker's reports back while its host has too much to take already.
    fn wait_for_room(&self, generation: u32) {
        let mut core = self.core();
        loop {
            let full = core.holder().is_some_and(|session| session.is_full());
            let Some(worker) = core.worker.as_mut().filter(|worker| worker.generation == generation) else {
                return;
            };
            worker.held_up = full;
            if !full {
                worker.since = Instant::now();
                return;
            }
            core = self.changed.wait_timeout(core, FULL_PAUSE).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Core {
    fn new(me: Weak<Supervisor>) -> Self {
        Self {
            me,
            sessions: BTreeMap::new(),
            holder: None,
            queue: VecDeque::new(),
            worker: None,
            generation: 0,
            worker_facts: None,
            last_end: String::new(),
            last_queue_news: Instant::now(),
            framer: Framer::default(),
        }
    }

    /// Links `outbox` to the session of that number, which is made where it is not known. Returns
    /// whether it was known, or none where there are too many.
    pub fn greet(&mut self, number: u64, host: String, max_frame: u32, outbox: &Arc<Outbox>) -> Option<bool> {
        let known = self.sessions.contains_key(&number);
        if !known && self.sessions.len() >= MAX_SESSIONS {
            let lost = self.sessions.iter().filter_map(|(&number, session)| Some((session.lost?, number)));
            let (_, longest) = lost.min()?;
            self.end_session(longest);
        }
        let session = self.sessions.entry(number).or_default();
        if let Some(old) = session.link.replace(Arc::clone(outbox))
            && !Arc::ptr_eq(&old, outbox)
        {
            old.close();
        }
        (session.lost, session.host, session.max_frame) = (None, host, max_frame);
        Some(known)
    }

    /// The session, where `outbox` is its link.
    pub fn linked(&mut self, number: u64, outbox: &Arc<Outbox>) -> Option<&mut Session> {
        let session = self.sessions.get_mut(&number)?;
        session.link.as_ref().is_some_and(|link| Arc::ptr_eq(link, outbox)).then_some(session)
    }

    /// Accepts a request, or answers it as it was answered before.
    pub fn submit(&mut self, number: u64, request: Request) {
        if self.is_repeated(number, request.id) {
            return;
        }
        let Some(session) = self.sessions.get_mut(&number) else { return };
        let id = request.id;
        if let Some(fault) = refuse(session, &request) {
            session.answer(id, self.framer.frame(&fault));
            return session.flush();
        }
        session.waiting.push_back(request);
        if self.acquire(number) { self.pump() } else { self.send_place(number, id) }
    }

    /// Whether `id` was asked before; if so it is answered as before, or as soon as it is done.
    pub fn is_repeated(&mut self, number: u64, id: u32) -> bool {
        let Some(session) = self.sessions.get(&number) else { return false };
        if let Some(frames) = session.answered(id) {
            session.push(frames);
            session.flush();
            return true;
        }
        let pending = session.is_pending(id);
        if pending {
            self.send_place(number, id);
        }
        pending
    }

    /// Ends a job early.
    pub fn stop(&mut self, number: u64, id: u32, job: u32) {
        if self.is_repeated(number, id) {
            return;
        }
        let Some(session) = self.sessions.get_mut(&number) else { return };
        if session.job(job).is_none() {
            let fault = fault(id, FaultCode::BadRequest, "there is no such job");
            session.answer(id, self.framer.frame(&fault));
        } else {
            session.answer(id, self.framer.frame(&ToHost::Done { id }));
            let waits = |request: &Request| request.task == Task::Measure { job };
            if let Some(place) = session.waiting.iter().position(waits) {
                if let Some(request) = session.waiting.remove(place) {
                    session.answer(request.id, self.framer.frame(&ToHost::Done { id: request.id }));
                }
                end_job(session, &mut self.framer, job, JobEnd::Stopped);
            } else if session.running.as_ref().is_some_and(waits)
                && let Some(worker) = self.worker.as_mut().filter(|worker| !worker.stopped)
            {
                worker.stopped = true;
                worker.order(&put(&Order::Stop { job }, Vec::new()));
            }
        }
        self.flush(number);
    }

    /// Frees all that a session holds.
    pub fn end_session(&mut self, number: u64) {
        self.queue.retain(|&waiting| waiting != number);
        self.sessions.remove(&number);
        if self.holder == Some(number) {
            self.release();
        }
    }

    /// Notes that a session's link is gone.
    pub fn lose(&mut self, number: u64, outbox: &Arc<Outbox>) {
        if let Some(session) = self.linked(number, outbox) {
            session.link = None;
            session.lost = Some(Instant::now());
        }
    }

    /// Sends what was added for a session.
    pub fn flush(&self, number: u64) {
        if let Some(session) = self.sessions.get(&number) {
            session.flush();
        }
    }

    fn holder(&mut self) -> Option<&mut Session> {
        self.sessions.get_mut(&self.holder?)
    }

    fn acquire(&mut self, number: u64) -> bool {
        if self.holder.is_none() {
            self.holder = Some(number);
        }
        let holds = self.holder == Some(number);
        if !holds && !self.queue.contains(&number) {
            self.queue.push_back(number);
        }
        holds
    }

    /// Passes the lease on, with a fresh worker.
    fn release(&mut self) {
        if let Some(worker) = self.worker.take_if(|worker| worker.used) {
            worker.kill();
        }
        self.holder = self.queue.pop_front();
        self.pump();
        if self.worker.is_none() {
            // The next lease finds it ready. Where it cannot start, the next request is told.
            self.start_worker().ok();
        }
    }

    fn start_worker(&mut self) -> io::Result<()> {
        let supervisor = self.me.upgrade().ok_or_else(|| io::Error::other("the agent is ending"))?;
        self.generation += 1;
        let reports = Crew { supervisor: Arc::clone(&supervisor), generation: self.generation };
        let worker = WorkerProcess::spawn(&supervisor.settings.worker, self.generation, Box::new(reports))?;
        self.worker = Some(worker);
        Ok(())
    }

    /// Gives the worker the lease holder's next request, if both are free.
    fn pump(&mut self) {
        while self.holder().is_some_and(|session| session.running.is_none() && !session.waiting.is_empty()) {
            let started = if self.worker.is_none() { self.start_worker() } else { Ok(()) };
            let Some(session) = self.holder.and_then(|number| self.sessions.get_mut(&number)) else { return };
            let Some(request) = session.waiting.pop_front() else { return };
            match (started, &mut self.worker) {
                (Ok(()), Some(worker)) => {
                    worker.stopped = false;
                    worker.order(&request.order);
                    session.running = Some(request);
                }
                (started, _) => {
                    let why = started.err().map_or_else(String::new, |error| error.to_string());
                    session.running = Some(request);
                    self.fail_running(FaultCode::Agent, &format!("cannot start a worker: {why}"));
                }
            }
        }
    }

    /// Ends the running request with a fault: a job by its last block, anything else by the answer.
    fn fail_running(&mut self, code: FaultCode, text: &str) {
        let slot = self.worker.as_ref().map_or(0, WorkerProcess::last_slot);
        let Some(session) = self.holder.and_then(|number| self.sessions.get_mut(&number)) else { return };
        let Some(request) = session.running.take() else { return };
        let doing = match request.task {
            Task::Load { slot } => format!("loading slot {slot}"),
            Task::Infer { slot } => format!("running slot {slot}"),
            Task::Measure { .. } => format!("timing slot {slot}"),
            Task::Clear => "emptying the slots".to_owned(),
        };
        let text = format!("while {doing}: {text}");
        if let Task::Measure { job } = request.task {
            if session.answered(request.id).is_none() {
                session.answer_end(request.id, self.framer.frame(&ToHost::Done { id: request.id }));
            }
            end_job(session, &mut self.framer, job, JobEnd::Fault { code, slot, text: &text });
        } else {
            session.answer_end(request.id, self.framer.frame(&fault(request.id, code, &text)));
        }
        session.flush();
    }

    fn report(&mut self, report: Report<'_>) {
        let message = match report {
            Report::Alive => return,
            Report::Ready(ready) => {
                self.worker_facts.get_or_insert_with(|| WorkerFacts::from(ready));
                if let Some(worker) = &mut self.worker {
                    worker.ready = true;
                }
                return;
            }
            Report::Say(message) => message,
        };
        let Some(session) = self.holder.and_then(|number| self.sessions.get_mut(&number)) else { return };
        let Some((running, task)) = session.running.as_ref().map(|request| (request.id, request.task)) else {
            return;
        };
        match (&message, task) {
            (ToHost::Node(_) | ToHost::Port(_) | ToHost::Output { .. }, _) => {
                session.answer_piece(self.framer.frame(&message));
            }
            (ToHost::Done { .. }, Task::Measure { .. }) => {
                session.answer_end(running, self.framer.frame(&message));
            }
            (ToHost::Block(block), Task::Measure { job }) => {
                let is_end = matches!(block.body, Body::End(_));
                let Some(seq) = session.job(job).map(|job| job.next()) else { return };
                let block = ToHost::Block(Block { job, seq, body: block.body });
                session.block(job, self.framer.frame(&block), is_end);
                if is_end {
                    session.running = None;
                }
            }
            (ToHost::Loaded(_) | ToHost::Done { .. } | ToHost::Fault { .. }, _) => {
                if let Task::Measure { job } = task {
                    session.drop_job(job);
                }
                session.answer_end(running, self.framer.frame(&message));
                session.running = None;
            }
            _ => {}
        }
    }

    fn worker_ended(&mut self, generation: u32, how: &str, run_limit: Duration) {
        let Some(worker) = self.worker.as_ref().filter(|worker| worker.generation == generation) else {
            return;
        };
        let text = if worker.overtime {
            let limit = run_limit.as_secs_f64();
            format!("the worker was ended after {limit} s; give it more with --run-limit")
        } else {
            format!("the worker {how}")
        };
        how.clone_into(&mut self.last_end);
        self.fail_running(FaultCode::WorkerDied, &text);
        let was_ready = self.worker.take().is_some_and(|worker| worker.ready);
        if was_ready {
            eprintln!("{text}; another one is started");
            self.start_worker().ok();
        }
        self.pump();
    }

    fn expire(&mut self, ttl: Duration) {
        let is_gone = |session: &Session| session.lost.is_some_and(|lost| lost.elapsed() >= ttl);
        // Without anyone waiting, a lost host may come back as late as it likes.
        let wanted = !self.queue.is_empty();
        let holder = self.holder;
        let gone: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(number, session)| is_gone(session) && (wanted || Some(**number) != holder))
            .map(|(&number, _)| number)
            .collect();
        for number in gone {
            self.end_session(number);
        }
    }

    fn announce_queue(&mut self) {
        if self.last_queue_news.elapsed() < HEARTBEAT {
            return;
        }
        self.last_queue_news = Instant::now();
        for number in self.queue.clone() {
            let first = self.sessions.get(&number).and_then(|session| session.waiting.front());
            if let Some(id) = first.map(|request| request.id) {
                self.send_place(number, id);
            }
        }
    }

    fn send_place(&mut self, number: u64, id: u32) {
        let Some(place) = self.queue.iter().position(|&waiting| waiting == number) else { return };
        let ahead = u16::try_from(place + 1).unwrap_or(u16::MAX);
        if let Some(session) = self.sessions.get(&number) {
            session.push(self.framer.frame(&ToHost::Queued { id, ahead }));
            session.flush();
        }
    }

    fn heartbeat(&mut self, uptime_ms: u64) {
        for link in self.sessions.values().filter_map(|session| session.link.as_ref()) {
            if link.quiet_for() >= HEARTBEAT && !link.is_full() {
                link.send(self.framer.frame(&ToHost::Heartbeat { uptime_ms }));
            }
        }
    }

    fn limit_runs(&mut self, limit: Duration) {
        let busy = self.holder().is_some_and(|session| session.running.is_some());
        if let Some(worker) = self.worker.as_mut().filter(|worker| busy && !worker.held_up)
            && worker.since.elapsed() > limit
        {
            worker.overtime = true;
            worker.kill();
        }
    }
}

/// Why a request cannot be accepted, if so; opens the job of one that can.
fn refuse(session: &mut Session, request: &Request) -> Option<ToHost<'static>> {
    if session.waiting.len() >= MAX_WAITING {
        return Some(fault(request.id, FaultCode::Busy, "too many requests wait already"));
    }
    match request.task {
        Task::Measure { job } if !session.open_job(job) => {
            Some(fault(request.id, FaultCode::BadRequest, "the job's number was used before"))
        }
        _ => None,
    }
}

fn end_job(session: &mut Session, framer: &mut Framer, job: u32, end: JobEnd<'_>) {
    let Some(seq) = session.job(job).filter(|job| !job.has_ended()).map(|job| job.next()) else { return };
    session.block(job, framer.frame(&ToHost::Block(Block { job, seq, body: Body::End(end) })), true);
}

const fn fault(id: u32, code: FaultCode, text: &str) -> ToHost<'_> {
    ToHost::Fault { id, code, text }
}

/// Where one worker's reports go.
struct Crew {
    supervisor: Arc<Supervisor>,
    generation: u32,
}

impl Reports for Crew {
    fn take(&mut self, inbox: &mut Inbox) -> bool {
        let mut core = self.supervisor.core();
        match &mut core.worker {
            Some(worker) if worker.generation == self.generation => worker.since = Instant::now(),
            _ => return false,
        }
        // Everything that is ready together is sent together.
        loop {
            match inbox.next_payload() {
                Ok(Some(payload)) => match postcard::from_bytes(payload) {
                    Ok(report) => core.report(report),
                    Err(_) => return false,
                },
                Ok(None) => break,
                Err(_) => return false,
            }
        }
        let holder = core.holder();
        let full = holder.is_some_and(|session| {
            session.flush();
            session.is_full()
        });
        core.pump();
        drop(core);
        self.supervisor.notify();
        if full {
            self.supervisor.wait_for_room(self.generation);
        }
        true
    }

    fn end(self: Box<Self>, how: &str) {
        let mut core = self.supervisor.core();
        core.worker_ended(self.generation, how, self.supervisor.settings.worker.run_limit);
        drop(core);
        self.supervisor.notify();
    }
}

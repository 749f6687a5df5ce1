//! Who may use the device, and what becomes of their requests.
//!
//! One session at a time holds the lease and gives the worker orders; the others wait in a queue. The
//! lease passes on when its session says goodbye, or when its link has been gone for the lease's time
//! to live and somebody waits. Every lease begins with a fresh worker.
//!
//! Requests come from [`conversation`](crate::conversation), reports from the worker; `dispatch` brings
//! them together. All state is
//! behind one lock, which nobody holds while waiting for a host or for the worker.

mod dispatch;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use hanas_proto::ToHost;

use crate::blobs::Blobs;
use crate::connection::{Framer, Outbox};
use crate::facts::{Facts, WorkerFacts};
use crate::orders::Inbox;
use crate::process::{Reports, WorkerProcess};
use crate::session::Session;
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
    /// Connections that are served.
    pub connections: AtomicUsize,
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
            facts: Facts::gather(settings.name.as_deref()),
            blobs: Mutex::new(blobs),
            core: Mutex::new(Core::new(Weak::clone(me))),
            changed: Condvar::new(),
            started: Instant::now(),
            connections: AtomicUsize::new(0),
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

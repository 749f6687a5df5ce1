//! Requests in, orders out; reports in, answers and blocks out.

use std::time::Duration;

use hanas_proto::ToHost;
use hanas_proto::fault::FaultCode;
use hanas_proto::measure::{Block, Body, JobEnd, NO_SLOT};

use super::Core;
use crate::connection::Framer;
use crate::facts::WorkerFacts;
use crate::log;
use crate::orders::{Order, Report, put};
use crate::process::WorkerProcess;
use crate::session::{MAX_WAITING, Request, Session, Task};

impl Core {
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

    /// Gives the worker the lease holder's next request, if both are free.
    pub(super) fn pump(&mut self) {
        while self.holder().is_some_and(|session| session.running.is_none() && !session.waiting.is_empty()) {
            let started = if self.worker.is_none() { self.start_worker() } else { Ok(()) };
            let Some(session) = self.holder.and_then(|number| self.sessions.get_mut(&number)) else { return };
            let Some(request) = session.waiting.pop_front() else { return };
            match (started, &mut self.worker) {
                (Ok(()), Some(worker)) => {
                    worker.stopped = false;
                    worker.begin(&request.order);
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
        let timed = self.worker.as_ref().and_then(WorkerProcess::last_slot);
        let Some(session) = self.holder.and_then(|number| self.sessions.get_mut(&number)) else { return };
        let Some(request) = session.running.take() else { return };
        let doing = match request.task {
            Task::Load { slot } => format!("loading slot {slot}"),
            Task::Infer { slot } => format!("running slot {slot}"),
            Task::Measure { .. } => match timed {
                Some(slot) => format!("timing slot {slot}"),
                None => "beginning a job".to_owned(),
            },
            Task::Clear => "emptying the slots".to_owned(),
        };
        let text = format!("while {doing}: {text}");
        if let Task::Measure { job } = request.task {
            if session.answered(request.id).is_none() {
                session.answer_end(request.id, self.framer.frame(&ToHost::Done { id: request.id }));
            }
            let slot = timed.unwrap_or(NO_SLOT);
            end_job(session, &mut self.framer, job, JobEnd::Fault { code, slot, text: &text });
        } else {
            session.answer_end(request.id, self.framer.frame(&fault(request.id, code, &text)));
        }
        session.flush();
    }

    pub(super) fn report(&mut self, report: Report<'_>) {
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

    pub(super) fn worker_ended(&mut self, generation: u32, how: &str, run_limit: Duration) {
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
            log::line(format_args!("{text}; another one is started"));
            self.start_worker().ok();
        }
        self.pump();
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

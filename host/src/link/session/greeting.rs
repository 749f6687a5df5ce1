//! A link's beginning: dialled, greeted, and after a loss dialled and greeted again.

use std::time::{Duration, Instant};

use hanas_proto::chip::Elements;
use hanas_proto::endpoints::{ToAgent, ToHost};
use hanas_proto::frame::{CRC_BYTES, Deframer, framed_len};
use hanas_proto::handshake::{DIALECT, Hello, MAGIC, ModelForm, RefusalReason};

use super::super::probe::{Chip, Start};
use super::super::stream::Stream;
use super::{DeviceUrl, Facts, Heard, Limits, LinkError, MAX_FRAME, Session};

impl Session {
    /// Opens the link anew and resumes the session.
    ///
    /// # Errors
    /// [`LinkError::Gone`] where the link does not come back in time, [`LinkError::Restarted`] where the
    /// agent no longer knows the session.
    pub(in crate::link) fn reconnect(&mut self, reason: &str) -> Result<(), LinkError> {
        if self.url.is_child() {
            return Err(self.gone(reason.to_owned()));
        }
        let begun = Instant::now();
        let mut start = Start::AsItIs;
        loop {
            // A chip that does not answer over a fresh link hangs: the second time it is reset.
            if self.redial(start).is_ok() {
                start = Start::Reset;
                match self.greet(self.timeouts.connect) {
                    Ok(true) => return Ok(()),
                    Ok(false) => return Err(LinkError::Restarted { url: self.url.to_string() }),
                    Err(error @ (LinkError::Dialect { .. } | LinkError::NotPaired { .. })) => {
                        return Err(error);
                    }
                    Err(_) => {}
                }
            }
            if begun.elapsed() > self.timeouts.reconnect || self.is_to_end() {
                return Err(self.gone(reason.to_owned()));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Resumes the session on a link that is there but, says the agent, without one.
    ///
    /// # Errors
    /// As [`reconnect`](Self::reconnect): an agent that was started anew does not know the session.
    pub(in crate::link) fn resume_session(&mut self) -> Result<(), LinkError> {
        match self.greet(self.timeouts.connect) {
            Ok(true) => Ok(()),
            Ok(false) => Err(LinkError::Restarted { url: self.url.to_string() }),
            Err(LinkError::Gone { .. } | LinkError::NoAgent { .. }) => {
                self.reconnect("it lost the session and no longer answers")
            }
            Err(error) => Err(error),
        }
    }

    /// Opens the link anew.
    pub(super) fn redial(&mut self, start: Start) -> Result<(), LinkError> {
        // A serial port is opened by one at a time and a probe serves one link: the old one ends first.
        self.stream = Stream::closed();
        self.stream = dial(&self.url, self.timeouts.connect, start)?;
        self.deframer = Deframer::new(vec![0; framed_len(MAX_FRAME)]);
        self.unread = 0..0;
        Ok(())
    }

    /// A chip's latencies depend on what it computes in, which is the host's to choose: it is told with
    /// the runtime, so that profiles of either kind are kept apart.
    fn note_elements(&mut self, form: ModelForm) {
        if form == ModelForm::Chip {
            let kind = match self.url.elements() {
                Elements::F32 => "f32",
                Elements::I8 => "int8",
            };
            self.facts.runtime = format!("{} {kind}", self.facts.runtime);
        }
    }

    /// Says hello until welcomed; whether the agent knew the session.
    pub(super) fn greet(&mut self, limit: Duration) -> Result<bool, LinkError> {
        let start = Instant::now();
        let host = format!("hanas {}", env!("CARGO_PKG_VERSION"));
        let hello = Hello {
            magic: MAGIC,
            dialect: DIALECT,
            session: self.number,
            max_frame: MAX_FRAME as u32,
            host: &host,
        };
        while start.elapsed() < limit {
            // An agent that was not heard yet is not silent: `limit` alone is how long it may take.
            self.last_heard = Instant::now();
            // A flush mark first: a serial receiver may hold half a frame of an earlier host.
            let _ = self.stream.write_all(&[0]);
            self.send(&ToAgent::Hello(hello))?;
            let asked = Instant::now();
            while asked.elapsed() < Duration::from_secs(1) {
                let url = self.url.to_string();
                let heard = self.hear(Duration::from_millis(250), |message| match message {
                    ToHost::Welcome(welcome) if welcome.dialect == DIALECT => {
                        let limits = Limits {
                            max_frame: (welcome.max_frame as usize).min(1 << 20),
                            window: welcome.window.max(1),
                            max_blob: welcome.max_blob,
                            slots: welcome.slots,
                            form: welcome.device.form,
                        };
                        Ok(Heard::Answer((Facts::from(welcome.device), limits, welcome.resumed)))
                    }
                    ToHost::Welcome(welcome) => Err(LinkError::Dialect {
                        theirs: welcome.dialect,
                        agent: welcome.device.agent.to_owned(),
                    }),
                    ToHost::Refused(refusal) => Err(match refusal.reason {
                        RefusalReason::Dialect => {
                            LinkError::Dialect { theirs: refusal.dialect, agent: refusal.agent.to_owned() }
                        }
                        RefusalReason::NotPaired => LinkError::NotPaired { url: url.clone() },
                    }),
                    _ => Ok(Heard::Other),
                })?;
                if let Some(Heard::Answer((facts, limits, resumed))) = heard {
                    self.facts = facts;
                    self.note_elements(limits.form);
                    self.limits = limits;
                    self.scratch.resize(limits.max_frame + CRC_BYTES, 0);
                    self.outbox.resize(framed_len(limits.max_frame), 0);
                    return Ok(resumed);
                }
            }
        }
        Err(LinkError::NoAgent { url: self.url.to_string(), doubt: self.url.doubt() })
    }
}

pub(super) fn dial(url: &DeviceUrl, timeout: Duration, start: Start) -> Result<Stream, LinkError> {
    if url.is_probe() {
        return Chip::open(url, start).map(Stream::over);
    }
    Stream::open(url, timeout).map_err(|error| LinkError::Unreachable {
        url: url.to_string(),
        reason: error.to_string(),
        hint: url.remedy(error.kind()),
    })
}

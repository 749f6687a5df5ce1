//! Sending content: once, in chunks, under its digest.

use hanas_proto::endpoints::{ToAgent, ToHost};
use hanas_proto::fault::FaultCode;
use hanas_proto::handshake::ModelForm;
use hanas_proto::measure::LoadOptions;
use hanas_proto::{Bytes, Digest};

use super::LinkError;
use super::chip::{self, ChipLimits};
use super::session::{Heard, LoadedModel, Patience, Session};

/// Bytes of a chunk message that are not content: variant, id, offset and length as varints.
const CHUNK_OVERHEAD: usize = 32;

impl Session {
    /// Makes the agent hold `content`; sends only what it lacks.
    ///
    /// # Errors
    /// [`LinkError::Fault`] where it is larger than the agent takes, or a failing link.
    pub fn upload(&mut self, content: &[u8]) -> Result<Digest, LinkError> {
        let digest = Digest(*blake3::hash(content).as_bytes());
        let size = content.len() as u64;
        let id = self.id();
        let open = ToAgent::BlobOpen { id, digest, size };
        let mut held = self.ask(id, &open, holding(id))?;
        let limits = self.limits();
        let chunk = self.url.chunk_bytes().min(limits.max_frame - CHUNK_OVERHEAD);
        let ahead = chunk as u64 * u64::from(limits.window);
        let mut sent = held;
        let mut patience = Patience::new(&self.url);
        while held < size {
            while sent < size && sent < held + ahead {
                let end = (sent as usize + chunk).min(content.len());
                let data = &content[sent as usize..end];
                self.send(&ToAgent::BlobChunk { id, offset: sent, data })?;
                sent = end as u64;
            }
            match self.hear(patience.left(), with_faults(id)) {
                // An answer behind what is held already is an old one; one that does not move after all
                // was sent says that a chunk was lost.
                Ok(Some(Heard::Answer(now))) if now > held => {
                    held = now;
                    patience.renew();
                }
                Ok(Some(Heard::Answer(now))) if sent > now && now == held => sent = self.settle(id, now)?,
                Ok(_) if patience.is_over() => {
                    held = self.ask(id, &open, holding(id))?;
                    sent = held;
                }
                Ok(_) => {}
                Err(LinkError::Gone { reason, .. }) => {
                    self.reconnect(&reason)?;
                    held = self.ask(id, &open, holding(id))?;
                    sent = held;
                }
                Err(LinkError::Fault { code: FaultCode::NoSession, .. }) => {
                    self.resume_session()?;
                    held = self.ask(id, &open, holding(id))?;
                    sent = held;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(digest)
    }

    /// Makes ONNX a model in a slot, in the form that the device takes; what does not fit a chip's memory is
    /// not sent.
    ///
    /// # Errors
    /// [`LinkError::Fault`] with the device's reason or the host's, or a failing link.
    pub fn load_onnx(
        &mut self,
        slot: u16,
        onnx: &[u8],
        options: LoadOptions,
    ) -> Result<LoadedModel, LinkError> {
        let limits = self.limits();
        if limits.form == ModelForm::Onnx {
            let digest = self.upload(onnx)?;
            return self.load(slot, digest, options);
        }
        let memory = Bytes(self.facts().memory_bytes);
        let taken: u64 =
            self.chip_slots.iter().filter(|(other, _)| **other != slot).map(|(_, len)| len).sum();
        let content = Bytes(limits.max_blob.saturating_sub(taken));
        let model = chip::lower(onnx, self.url.elements(), ChipLimits { memory, content })?;
        let digest = self.upload(&model)?;
        let loaded = self.load(slot, digest, options)?;
        self.chip_slots.insert(slot, model.len() as u64);
        Ok(loaded)
    }

    /// After a loss: lets the answers to chunks in flight pass, then returns where to go on.
    fn settle(&mut self, id: u32, held: u64) -> Result<u64, LinkError> {
        let mut latest = held;
        while let Some(heard) = self.hear(std::time::Duration::from_millis(20), with_faults(id))? {
            if let Heard::Answer(now) = heard {
                latest = latest.max(now);
            }
        }
        Ok(latest)
    }
}

fn holding(id: u32) -> impl FnMut(ToHost<'_>) -> Result<Heard<u64>, LinkError> {
    move |message| match message {
        ToHost::BlobHeld { id: got, held } if got == id => Ok(Heard::Answer(held)),
        _ => Ok(Heard::Other),
    }
}

fn with_faults(id: u32) -> impl FnMut(ToHost<'_>) -> Result<Heard<u64>, LinkError> {
    let mut holding = holding(id);
    move |message| match message {
        ToHost::Fault { id: got, code, text } if got == id => {
            Err(LinkError::Fault { code, text: text.to_owned() })
        }
        other => holding(other),
    }
}

//! The null runtime: anything loads and a run does nothing, so all that is measured is the measuring.

use std::collections::BTreeMap;
use std::time::Instant;

use hanas_proto::measure::LoadOptions;
use hanas_proto::units::Nanos;

use super::{Model, Runtime, Timed, Trouble};

/// Holds options and nothing else.
#[derive(Debug, Default)]
pub struct Null {
    slots: BTreeMap<u16, LoadOptions>,
}

impl Runtime for Null {
    fn name(&self) -> String {
        "null".to_owned()
    }

    fn load(&mut self, slot: u16, _content: &[u8], options: LoadOptions) -> Result<Model, Trouble> {
        self.slots.insert(slot, options);
        Ok(Model::default())
    }

    fn clear(&mut self) {
        self.slots.clear();
    }

    /// No model, no outputs.
    fn infer(&mut self, slot: u16, _inputs: &[u8]) -> Result<Vec<u8>, Trouble> {
        self.run_once(slot).map(|_| Vec::new())
    }
}

impl Timed for Null {
    type Trouble = Trouble;

    fn options(&self, slot: u16) -> Option<LoadOptions> {
        self.slots.get(&slot).copied()
    }

    fn run_once(&mut self, slot: u16) -> Result<Nanos, Trouble> {
        self.slots.get(&slot).ok_or_else(|| Trouble::empty_slot(slot))?;
        let start = Instant::now();
        Ok(Nanos::from_duration(start.elapsed()))
    }

    fn run_nodes(&mut self, slot: u16, _tell: &mut dyn FnMut(Nanos)) -> Result<Nanos, Trouble> {
        self.run_once(slot)
    }
}

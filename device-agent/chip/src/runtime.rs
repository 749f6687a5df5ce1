//! Models in slots, timed.
//!
//! All slots share one working memory. When another slot's turn comes, its weights are drawn or copied
//! and its input is filled, outside of the timed part; so a model takes of the chip's memory what it
//! takes alone, however many are loaded.

use core::fmt::Write as _;

use bytemuck::{cast_slice, cast_slice_mut};
use hanas_device_core::device::MAX_SLOTS;
use hanas_device_core::{Clock, Models, Part, Runtime};
use hanas_proto::chip::{Elements, Map, Op, Source};
use hanas_proto::measure::{Fill, LoadOptions, Node, Port};
use hanas_proto::units::Nanos;

use crate::Trouble;
use crate::element::{Draw, Element};
use crate::model::{MAX_LAYERS, Model, counts};
use crate::run::{self, values_mut, weight_len, weight_words, words};

/// Seed of inputs.
const INPUT_SEED: u32 = 0x1234_5678;

/// Runs models over given memory.
pub struct ChipRuntime<'m, C> {
    clock: C,
    work: &'m mut [u32],
    /// The slots' content, one behind the other.
    contents: &'m mut [u8],
    used: usize,
    slots: [Option<Slot>; MAX_SLOTS],
    /// The model that was read last.
    model: Model,
    /// The slot whose model that is, and whose weights and input lie in the working memory.
    prepared: Option<u16>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    start: usize,
    len: usize,
    options: LoadOptions,
}

impl<'m, C: Clock> ChipRuntime<'m, C> {
    /// An empty one: `work` is the models' memory, `contents` holds what is loaded.
    pub const fn new(clock: C, work: &'m mut [u32], contents: &'m mut [u8]) -> Self {
        let slots = [None; MAX_SLOTS];
        Self { clock, work, contents, used: 0, slots, model: Model::none(), prepared: None }
    }

    fn slot(&self, slot: u16) -> Option<Slot> {
        self.slots.get(usize::from(slot)).copied().flatten()
    }

    /// Empties one slot and closes the gap that it leaves.
    fn remove(&mut self, slot: u16) {
        let Some(gone) = self.slots.get_mut(usize::from(slot)).and_then(Option::take) else { return };
        self.contents.copy_within(gone.start + gone.len..self.used, gone.start);
        self.used -= gone.len;
        for other in self.slots.iter_mut().flatten().filter(|other| other.start > gone.start) {
            other.start -= gone.len;
        }
        self.prepared = None;
    }

    /// Brings a slot's weights and input into the working memory, unless they are there, and does
    /// something with the model.
    fn with_model<T>(
        &mut self,
        slot: u16,
        act: impl FnOnce(&mut C, &Model, &mut [u32]) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let Slot { start, len, options } = self.slot(slot).ok_or(Trouble::empty_slot())?;
        let Self { clock, work, contents, model, prepared, .. } = self;
        if *prepared != Some(slot) {
            *prepared = None;
            let content = &contents[start..start + len];
            model.read(content, size_of_val(*work))?;
            let given = model.given(content);
            match model.header.elements {
                Elements::F32 => prepare::<f32>(model, given, work, options.fill),
                Elements::I8 => prepare::<i8>(model, given, work, options.fill),
            }?;
            *prepared = Some(slot);
        }
        act(clock, model, work)
    }
}

fn prepare<E: Element>(model: &Model, given: &[u8], work: &mut [u32], fill: Fill) -> Result<(), Trouble> {
    let outside = Trouble::not_a_model("a layer's weights lie outside of the memory");
    for layer in model.layers() {
        let Some((weights, count, biases)) = counts(layer) else { continue };
        let place = work.get_mut(weight_words::<E>(&weights, count, biases)).ok_or(outside)?;
        match weights.source {
            Source::Drawn { seed, scale } => {
                let mut draw = Draw::new(seed);
                let (weights, biases) = place.split_at_mut(weight_len::<E>(count));
                let weights: &mut [E] = cast_slice_mut(weights);
                weights.iter_mut().for_each(|weight| *weight = E::drawn(draw.bits(), scale));
                biases.fill(0);
            }
            Source::Given { at } => {
                let bytes: &mut [u8] = cast_slice_mut(place);
                let given = given.get(at as usize..at as usize + bytes.len()).ok_or(outside)?;
                bytes.copy_from_slice(given);
            }
        }
    }
    let input = model.header.input;
    let place = work.get_mut(words::<E>(&input)).ok_or(outside)?;
    let mut draw = Draw::new(INPUT_SEED);
    for value in values_mut::<E>(place, &input) {
        *value = match fill {
            Fill::Random => E::drawn(draw.bits(), 1.0),
            Fill::Zeros => E::ZERO,
            Fill::Ones => E::ONE,
        };
    }
    Ok(())
}

/// Runs a model's layers; `after` is told of each.
fn run(model: &Model, work: &mut [u32], mut after: impl FnMut()) -> Result<(), Trouble> {
    for layer in model.layers() {
        match model.header.elements {
            Elements::F32 => run::layer::<f32>(layer, work),
            Elements::I8 => run::layer::<i8>(layer, work),
        }?;
        after();
    }
    Ok(())
}

impl<C: Clock> Runtime for ChipRuntime<'_, C> {
    type Trouble = Trouble;

    fn options(&self, slot: u16) -> Option<LoadOptions> {
        self.slot(slot).map(|slot| slot.options)
    }

    fn run_once(&mut self, slot: u16) -> Result<Nanos, Trouble> {
        self.with_model(slot, |clock, model, work| {
            let start = clock.now();
            run(model, work, || {})?;
            Ok(clock.now() - start)
        })
    }

    fn run_nodes(&mut self, slot: u16, tell: &mut dyn FnMut(Nanos)) -> Result<Nanos, Trouble> {
        self.with_model(slot, |clock, model, work| {
            let mut ends = [Nanos(0); MAX_LAYERS];
            let mut count = 0;
            let start = clock.now();
            run(model, work, || {
                ends[count] = clock.now();
                count += 1;
            })?;
            let mut before = start;
            for &end in &ends[..count] {
                tell(end - before);
                before = end;
            }
            Ok(before - start)
        })
    }
}

impl<C: Clock> Models for ChipRuntime<'_, C> {
    fn load(
        &mut self,
        id: u32,
        slot: u16,
        content: &[u8],
        options: LoadOptions,
        tell: &mut dyn FnMut(Part<'_>),
    ) -> Result<u16, Trouble> {
        self.remove(slot);
        self.prepared = None;
        self.model.read(content, size_of_val(self.work))?;
        let room = self.contents.get_mut(self.used..self.used + content.len());
        room.ok_or(Trouble::too_large("the slots hold too much already; empty them"))?
            .copy_from_slice(content);
        let place = self.slots.get_mut(usize::from(slot)).ok_or(Trouble::empty_slot())?;
        *place = Some(Slot { start: self.used, len: content.len(), options });
        self.used += content.len();

        let model = &self.model;
        for (index, layer) in (0u16..).zip(model.layers()) {
            let name = name(&layer.op);
            tell(Part::Node(Node { id, index, name, op: name }));
        }
        let ports = [(true, "input", model.header.input), (false, "output", model.header.output)];
        for (index, (is_input, name, map)) in (0u16..).zip(ports) {
            let fact = Fact::of(model.header.elements, &map);
            tell(Part::Port(Port { id, index, is_input, name, fact: fact.text() }));
        }
        Ok(model.header.layers)
    }

    fn clear(&mut self) {
        (self.slots, self.used, self.prepared) = ([None; MAX_SLOTS], 0, None);
    }

    fn infer(&mut self, slot: u16, inputs: &[u8], take: &mut dyn FnMut(&[u8])) -> Result<(), Trouble> {
        let done = self.with_model(slot, |_, model, work| {
            let header = model.header;
            let input = bytes(header.elements, &header.input);
            if inputs.len() != input.len() {
                let text = "the input has another length than the model's";
                return Err(Trouble { code: hanas_proto::fault::FaultCode::BadRequest, text });
            }
            cast_slice_mut::<u32, u8>(work)[input].copy_from_slice(inputs);
            run(model, work, || {})?;
            take(&cast_slice::<u32, u8>(work)[bytes(header.elements, &header.output)]);
            Ok(())
        });
        // The next timed run begins with an input of its own.
        self.prepared = None;
        done
    }
}

/// The bytes of a map, less what aligns it.
const fn bytes(elements: Elements, map: &Map) -> core::ops::Range<usize> {
    map.at as usize..map.at as usize + (map.len() * elements.bytes() as u64) as usize
}

const fn name(op: &Op) -> &'static str {
    match op {
        Op::Conv(..) => "Conv",
        Op::Depthwise(..) => "Depthwise",
        Op::Linear(_) => "Linear",
        Op::AveragePool(_) => "AveragePool",
        Op::MaxPool(_) => "MaxPool",
        Op::GlobalAveragePool => "GlobalAveragePool",
        Op::Relu => "Relu",
        Op::Add { .. } => "Add",
    }
}

/// `f32 1x3x32x32`, in memory of its own.
struct Fact {
    text: [u8; 32],
    used: usize,
}

impl Fact {
    fn of(elements: Elements, map: &Map) -> Self {
        let mut fact = Self { text: [0; _], used: 0 };
        let kind = match elements {
            Elements::F32 => "f32",
            Elements::I8 => "i8",
        };
        // It holds the longest: three numbers of five digits.
        let _ = write!(fact, "{kind} 1x{}x{}x{}", map.channels, map.height, map.width);
        fact
    }

    fn text(&self) -> &str {
        core::str::from_utf8(&self.text[..self.used]).unwrap_or_default()
    }
}

impl core::fmt::Write for Fact {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = self.text.get_mut(self.used..self.used + text.len()).ok_or(core::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.used += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests;

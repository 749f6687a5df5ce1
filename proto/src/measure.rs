//! Loading and timing: what the host asks for and what comes back.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use crate::fault::FaultCode;
use crate::units::Nanos;

/// Stands in [`JobEnd::Fault`] for the slot where none was begun yet.
pub const NO_SLOT: u16 = u16::MAX;

/// How a model is prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Schema)]
pub struct LoadOptions {
    /// Time every operator as well; costs a little on each.
    pub per_node: bool,
    /// What the inputs hold while timing.
    pub fill: Fill,
}

/// What a timed run's inputs hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Schema)]
pub enum Fill {
    /// Floats uniform in [-1, 1) from a fixed seed; integers and booleans zero.
    #[default]
    Random,
    /// All zero.
    Zeros,
    /// All one.
    Ones,
}

/// One operator of a loaded model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Node<'a> {
    /// The load request.
    pub id: u32,
    /// Place in execution order; names the operator in [`Body::Nodes`].
    pub index: u16,
    /// Its name in the optimised graph.
    pub name: &'a str,
    /// Its kind.
    pub op: &'a str,
}

/// One input or output of a loaded model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Port<'a> {
    /// The load request.
    pub id: u32,
    /// Place among the inputs and outputs, from 0.
    pub index: u16,
    /// Input or output.
    pub is_input: bool,
    /// Name in the graph.
    pub name: &'a str,
    /// Element type and dimensions as the runtime sees them, `f32 1x3x32x32`.
    pub fact: &'a str,
}

/// A model is ready to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Loaded {
    /// The load request.
    pub id: u32,
    /// The slot.
    pub slot: u16,
    /// Operators in the optimised graph.
    pub nodes: u16,
    /// Inputs and outputs.
    pub ports: u16,
    /// Time from bytes to ready.
    pub took: Nanos,
}

/// What to time.
///
/// A round visits every chosen slot once, in an order drawn anew from `seed`; a visit runs the model
/// `warmup` times untimed and `runs` times timed. A slot's first visit is preceded by untimed runs
/// until they are stationary: the median of 5 within 2% of the median of the 5 before, at most 20
/// runs or 100 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct MeasurePlan<'a> {
    /// Chosen slots: bit `s % 8` of byte `s / 8`.
    pub slots: &'a [u8],
    /// Rounds.
    pub rounds: u16,
    /// Untimed runs a visit.
    pub warmup: u16,
    /// Timed runs a visit.
    pub runs: u16,
    /// Seed of the visiting order.
    pub seed: u64,
    /// A visit ends early after this long (at least one timed run is made); zero: never.
    pub visit_limit: Nanos,
}

/// A piece of a job's result. Kept by the agent until acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Block<'a> {
    /// The job.
    pub job: u32,
    /// Counts from 0 in each job without gaps.
    pub seq: u32,
    /// The content.
    #[serde(borrow)]
    pub body: Body<'a>,
}

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Body<'a> {
    /// Timed runs: [`samples`](crate::samples) series keyed by slot.
    Samples {
        /// Which round they are of.
        round: u16,
        /// The series.
        series: &'a [u8],
    },
    /// Operators' times, one series a run: keyed by slot, one value an operator, in order.
    Nodes {
        /// Which round they are of.
        round: u16,
        /// The series.
        series: &'a [u8],
    },
    /// The circumstances of a round, sent at its end.
    Context {
        /// The round.
        round: u16,
        /// The circumstances.
        context: RoundContext,
    },
    /// The job is over; no block follows.
    End(JobEnd<'a>),
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum JobEnd<'a> {
    /// All rounds were run.
    Completed,
    /// The host stopped it.
    Stopped,
    /// It could not go on; what was taken before is good.
    Fault {
        /// What kind of trouble.
        code: FaultCode,
        /// The slot being run; [`NO_SLOT`] where none was begun yet.
        slot: u16,
        /// One line for a person.
        text: &'a str,
    },
}

/// What the device was doing during a round. Counters are the round's own, not totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Schema)]
pub struct RoundContext {
    /// When the round ended, milliseconds since 1970.
    pub unix_ms: u64,
    /// Wall time of the round, in microseconds.
    pub wall_us: u64,
    /// Processor time that the worker got in it, in microseconds.
    pub cpu_us: u64,
    /// Time stolen by a hypervisor on all processors, in microseconds; none where not known.
    pub steal_us: Option<u64>,
    /// Busy time of all processors, in microseconds; none where not known.
    pub busy_us: Option<u64>,
    /// Hottest sensor, in thousandths of a degree Celsius.
    pub temperature_mc: Option<i32>,
    /// Frequency of the worker's processor, in kHz.
    pub frequency_khz: Option<u32>,
    /// Times the worker gave the processor up.
    pub voluntary_switches: u32,
    /// Times the worker lost the processor.
    pub involuntary_switches: u32,
    /// Page faults served from memory.
    pub minor_faults: u32,
    /// Page faults served from disk.
    pub major_faults: u32,
}

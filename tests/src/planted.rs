//! A device with a known staircase: one stair a group, and in each group one width far below the stair.
//!
//! It stands for CIFAR ResNets at expansion 2 and batch 4: eight groups a stage, widths up to twice the
//! base. Within a stair the line favours wide over narrow by one stair's height at most; a planted width
//! is cheaper by more than that, so that the paper's rule has one right answer.

use std::fmt::Write as _;

/// Images a run.
pub const BATCH: u32 = 4;

/// Noise of the device: never faster than planted, slower by up to this, ns.
pub const NOISE_NS: u32 = 2_000;

/// Side of the output map and widths of every stage.
const STAGES: [(u32, u32); 3] = [(32, 32), (16, 64), (8, 128)];
const GROUPS: u32 = 8;
const FLOOR_NS: u32 = 60_000;
const STAIR_NS: u32 = 16_000;
const PLANTED_NS: u32 = 24_000;

/// Widths that a right choice finds, a list a stage. The paper takes any width.
#[must_use]
pub fn paper_choices() -> Vec<Vec<u32>> {
    (0..STAGES.len()).map(|stage| (0..GROUPS).map(|group| planted(stage, group)).collect()).collect()
}

/// As [`paper_choices`], but no width is under 4: the first group of the first stage, 1..4, has no other
/// than its last.
#[must_use]
pub fn project_choices() -> Vec<Vec<u32>> {
    let mut choices = paper_choices();
    choices[0][0] = 4;
    choices
}

/// The scripted runtime's script, with more of its settings in front.
#[must_use]
pub fn script(settings: &str) -> String {
    let mut script = format!("default_ns = 500000\nnoise_ns = {NOISE_NS}\nseed = 7\n{settings}\n");
    for (stage, (side, widths)) in STAGES.into_iter().enumerate() {
        for width in 1..=widths {
            let group = (width - 1) / (widths / GROUPS);
            let less = if planted(stage, group) == width { PLANTED_NS } else { 0 };
            let ns = FLOOR_NS + group * STAIR_NS - less;
            let output = format!("{BATCH}x{width}x{side}x{side}");
            // Writing to a string cannot fail.
            let _ = write!(script, "[[latency]]\noutput = \"{output}\"\nns = {ns}\n");
        }
    }
    script
}

/// The planted width of a group: somewhere in it, and in the very first group below the floor of 4.
const fn planted(stage: usize, group: u32) -> u32 {
    let size = STAGES[stage].1 / GROUPS;
    if stage == 0 && group == 0 {
        return 2;
    }
    group * size + 1 + (5 * group + 3 + stage as u32) % size
}

//! Figures of searching and training: seconds a step on this machine, all its processors.

use anyhow::Result;
use hanas::search::choices::Choices;
use hanas::search::htas::bench::step_times;
use hanas::search::htas::conv::Form;
use hanas::space::width::WidthSpace;
use hanas::train::bench::distil_step_times;
use hanas_models::resnet::Family;

use super::{Figure, median};

/// Images a step.
const BATCH: usize = 128;
/// Steps timed.
const STEPS: usize = 7;

/// What the reference code's form costs beside ours.
pub(crate) fn supernet() -> Result<Figure> {
    let family = Family::cifar_resnet(20, 10)?;
    let choices = Choices::new(&family, &WidthSpace::aligned(&family, 2, 8))?;
    let mut ratios = Vec::new();
    for seed in 0..3 {
        let total = |form| {
            let (weight, logit) = step_times(&choices, form, 128, 1, seed).medians_ns();
            (weight + logit) as f64
        };
        let sliced = total(Form::Sliced);
        ratios.push(total(Form::Padded) / sliced);
    }
    let how =
        "ResNet20, e = 2, batch 128: weight and architecture step, padded over sliced, median of 3 pairs"
            .to_owned();
    Ok(Figure { key: "supernet_step_speedup_vs_padded", value: median(&mut ratios), goal: ">= 2", how })
}

/// Weight and architecture step of ResNet20's supernet.
pub(crate) fn htas_steps(expand: u32) -> Result<Vec<Figure>> {
    let family = Family::cifar_resnet(20, 10)?;
    let choices = Choices::new(&family, &WidthSpace::aligned(&family, expand, 8))?;
    let before = processor_s();
    let times = step_times(&choices, Form::Sliced, BATCH, STEPS, 1);
    let pair = (processor_s() - before) / (STEPS + 1) as f64;
    let [weight, arch, goal] = match expand {
        1 => ["htas_weight_step_e1_s", "htas_arch_step_e1_s", "<= .4"],
        _ => ["htas_weight_step_e2_s", "htas_arch_step_e2_s", "<= 1.0"],
    };
    let figure = |key, ns: &[u64], what: &str| {
        let how = format!(
            "ResNet20, aligned grid, e = {expand}, batch {BATCH}, 32x32: {what} step, median of {STEPS}, {} threads; both steps took {pair:.2} s of processors",
            tch::get_num_threads()
        );
        Figure { key, value: seconds(ns), goal, how }
    };
    Ok(vec![figure(weight, &times.weight_ns, "weight"), figure(arch, &times.logit_ns, "architecture")])
}

/// One step of ResNet20 that learns from ResNet20.
pub(crate) fn kd_step() -> Result<Figure> {
    let net = Family::cifar_resnet(20, 10)?.base().net()?;
    let before = processor_s();
    let times = distil_step_times(&net, BATCH, STEPS, 1)?;
    let each = (processor_s() - before) / (STEPS + 1) as f64;
    let how = format!(
        "base ResNet20 as student and teacher, batch {BATCH}: median of {STEPS} steps, {} threads; a step took {each:.2} s of processors; PyTorch .63",
        tch::get_num_threads()
    );
    Ok(Figure { key: "kd_step_s", value: seconds(&times), goal: "<= .5", how })
}

fn seconds(ns: &[u64]) -> f64 {
    median(&mut ns.iter().map(|&ns| ns as f64 / 1e9).collect::<Vec<_>>())
}

/// Processor time of this process so far, all threads: what a step costs however busy the machine is.
fn processor_s() -> f64 {
    /// Of the kernel's clock in /proc, on every Linux.
    const TICKS_PER_S: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name stands in brackets and may hold anything; user and system time are fields 14 and 15.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let fields = after.split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_S
}

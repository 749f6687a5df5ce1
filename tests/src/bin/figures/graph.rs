//! Figures of graph nets: on Cora where `HANAS_PLANETOID` names its folder, else on a procedural graph of
//! its sizes.

use std::time::Instant;

use anyhow::{Context, Result};
use hanas::data::graph::{GraphData, load};
use hanas::data::planted::{Planted, planted};
use hanas::task::graph::GraphSet;
use hanas_models::gnn::layout::OnGraph;
use hanas_models::gnn::onnx::{Placement, lower};
use hanas_models::gnn::{GnnNet, Reading, seeded};
use hanas_models::onnx::Init;
use hanas_tests::agent::Agent;

use super::{Figure, direct, median, open};
use super::{Pin, agent};

/// The graph, and what to call it.
fn cora() -> Result<(GraphData, &'static str)> {
    match std::env::var_os("HANAS_PLANETOID") {
        Some(folder) => Ok((load(&GraphSet::Cora, folder.as_ref())?, "Cora")),
        None => Ok((planted(&Planted::CORA_SIZED, 1)?, "a procedural graph of Cora's sizes")),
    }
}

/// The reference net of 8 heads of 8 through tract, one thread.
fn infer() -> Result<Figure> {
    let (data, name) = cora()?;
    let net = GnnNet::reference(data.features.width(), data.classes, 8, 8);
    let on = OnGraph::new(&data.graph, &data.features);
    let weights = seeded(&net, 1);
    let onnx = lower(&net, &on, Reading::project(), Init::Weights(&weights), Placement::Inside)?;
    // Where the agent would run it.
    let agent: Agent = agent(&[]);
    let pinned = open(agent.url())?.facts().pinned;
    let mut run = direct(&onnx).context("tract")?;
    let _pin = Pin::to(pinned)?;
    run(5)?;
    let value = median(&mut run(60)?) / 1e6;
    let how = format!(
        "{name}, two layers (gat, sum, elu, 8 x 8; gat, sum, linear, 1), tract on one thread, median of 60"
    );
    Ok(Figure { key: "gat8x8_cora_infer_ms", value, goal: "<= 7", how })
}

/// One training step of a child whose hidden layer is `layer`.
#[cfg(feature = "torch")]
fn train_step(key: &'static str, layer: &str, goal: &'static str, steps: u32) -> Result<Figure> {
    use hanas::train::child::ChildConfig;
    use hanas::train::gnn::ChildTrainer;

    const THREADS: i32 = 2;
    const WARMUP: u32 = 3;
    let (data, name) = cora()?;
    let layers = vec![layer.parse()?, "gat/sum/linear/1x7".parse()?];
    let net = GnnNet::new(data.features.width(), data.classes, layers);
    let before = tch::get_num_threads();
    tch::set_num_threads(THREADS);
    let trainer = ChildTrainer::new(&data);
    let mut child = trainer.child(&net, &ChildConfig::default(), 1)?;
    let mut times = Vec::new();
    for epoch in 0..WARMUP + steps {
        let start = Instant::now();
        child.step(epoch);
        if epoch >= WARMUP {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    tch::set_num_threads(before);
    let how = format!(
        "{name}, hidden layer {layer}, dropout, loss, gradients and Adam, {THREADS} threads, median of {steps} steps"
    );
    Ok(Figure { key, value: median(&mut times), goal, how })
}

/// All of them.
pub(super) fn figures() -> Result<Vec<Figure>> {
    #[cfg_attr(not(feature = "torch"), expect(unused_mut, reason = "training needs libtorch"))]
    let mut figures = vec![infer()?];
    #[cfg(feature = "torch")]
    figures.extend([
        train_step("gat8x8_cora_train_step_ms", "gat/sum/elu/8x8", "<= 25", 40)?,
        train_step("gat8x64_mlp_cora_train_step_ms", "gat/mlp/elu/8x64", "<= 300", 15)?,
    ]);
    Ok(figures)
}

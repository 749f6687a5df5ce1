//! `hanas search hgnas`: a graph net for a device, by reinforcement learning, evolution or chance.
//!
//! Random nets are measured first: they train the latency predictor and fix T and the limit's quantile.
//! Then the search, whose trials are trained and predicted; then the best are measured, trained again and
//! again, and the best of them is exported and verified. Every step goes on where it was interrupted. The
//! device is held while it measures and free while children are trained.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use hanas_models::gnn::GnnNet;
use hanas_proto::Bytes;
use serde::Serialize;

use super::context::Global;
use super::gnn::{Trainer, digest};
use super::graph_retrain::{Changes, percent, retrain};
use super::graph_run::{Asked, GraphRun, judged, lines, verify};
use super::hgnas_args::{HgnasArgs, SearchCommand};
use super::hgnas_latencies::Measured;
use super::hgnas_prepare::{Ground, is_of, prepare};
use super::hgnas_timer::{FinalTimer, GnnTimer};
use super::output::{Format, json, text};
use super::turns::Turns;
use super::watch::Watch;
use super::{Interrupted, interrupt, search};
use crate::data::graph::{GraphData, load};
use crate::latency::verdict::MIN_SAMPLES;
use crate::link::{LinkError, Session};
use crate::profile::ProfileError;
use crate::profile::sampling::Sampling;
use crate::search::SearchError;
use crate::search::hgnas::cache::{ScoreCache, Setting};
use crate::search::hgnas::drawn;
use crate::search::hgnas::explore::{ProblemError, Proposer, Score, Trial, explore};
use crate::search::hgnas::finals::{Finalist, Jury, choose};
use crate::search::hgnas::predictor::Predictor;
use crate::search::hgnas::problem::{GnnProblem, Keep, Scorer};
use crate::search::hgnas::record::{GnnNetRecord, GnnRunRecord, GnnVerifyRecord};
use crate::search::hgnas::space::key;
use crate::search::hgnas::strategy::Strategy;
use crate::search::progress::peak_memory_bytes;
use crate::search::run::{RunDir, RunError, SCHEMA_VERSION, save};

/// Timed runs of a finalist and of the net that comes out.
const FINAL_SAMPLES: u32 = 60;

/// Timed runs of a net that paper mode draws after the search: there are a hundred.
const DRAWN_SAMPLES: u32 = MIN_SAMPLES as u32;

/// Runs `hanas search`.
pub(super) fn run(global: &Global, command: &SearchCommand) -> anyhow::Result<()> {
    match command {
        SearchCommand::Conv(args) => search::run(global, args),
        SearchCommand::Graph(args) => {
            let (outcome, trustworthy) = hgnas(global, args)?;
            print(global, &outcome)?;
            judged([&outcome.verify], trustworthy || args.allow_noisy)
        }
    }
}

/// What came of a search.
#[derive(Serialize)]
pub(super) struct Outcome {
    run: PathBuf,
    net: GnnNetRecord,
    verify: GnnVerifyRecord,
    peak_memory_bytes: u64,
}

/// Runs a search to its end, or goes on with it; what came of it, and whether its last measurement is
/// trustworthy.
pub(super) fn hgnas(global: &Global, args: &HgnasArgs) -> anyhow::Result<(Outcome, bool)> {
    if let Some(found) = finished(global, args)? {
        let (run, device) = (args.out.display(), &args.device.device);
        eprintln!(
            "note: this search is finished, and this is what it found; `hanas verify {run} --device {device}` measures it again"
        );
        return Ok(found);
    }
    let turns = Turns::new(args.turns.as_deref());
    let data = {
        let _turn = turns.train()?;
        load(&args.task.data, &args.data)?
    };
    let ground = prepare(global, args, &data, &turns)?;
    let Ground { dir, record, measured, predictor, .. } = &ground;
    let mut trainer = {
        let _turn = turns.train()?;
        InTurns { trainer: Trainer::new(&data, args.child()), turns: &turns }
    };
    let scores = Scores {
        path: args.scores.clone().unwrap_or_else(|| dir.file("scores.jsonl")),
        child: record.child.clone(),
        data: digest(&data),
    };
    let at_once = record.strategy == Strategy::Random;
    let mut cache = scores.open(trainer.trainer.threads(at_once))?;
    let (trials, mut proposer) = explored(global, &ground, &mut trainer, &mut cache)?;
    let chosen = {
        let _turn = turns.measure()?;
        let mut session = global.connect(&args.device)?;
        finalists(&ground, &trials, &mut *proposer, &trainer.trainer, &mut session)?
    };
    let mut cache = scores.open(trainer.trainer.threads(true))?;
    let finalists = {
        let mut watch = Watch::new("finals", global.quiet);
        let monitor = watch.monitor(interrupt::watch());
        let mut jury = Jury { scorer: &mut trainer, cache: &mut cache, monitor };
        jury.decide(chosen, &record.finals, args.seed).map_err(interrupted)?
    };
    let trained: BTreeSet<&str> = trials.iter().map(|trial| trial.key.as_str()).collect();
    let net = net_record(finalists, measured, record.limit_ns(), trained.len(), predictor)?;
    dir.remove_verify()?;
    save(&dir.file("net.json"), &net)?;
    let run = GraphRun::open(dir)?;
    {
        let _turn = turns.train()?;
        retrain(global, &run, &data, Changes::default())?;
    }
    verified(global, args, &data, run, &turns)
}

/// A run's net as the device runs it.
fn verified(
    global: &Global,
    args: &HgnasArgs,
    data: &GraphData,
    run: GraphRun,
    turns: &Turns,
) -> anyhow::Result<(Outcome, bool)> {
    let sampling = sampling(FINAL_SAMPLES);
    let asked = Asked { device: &args.device.device, data: Some(data), answers: true, sampling };
    let (mut found, trustworthy) = {
        let _turn = turns.measure()?;
        verify(std::slice::from_ref(&run), &mut global.connect(&args.device)?, &asked)?
    };
    let verify = found.pop().ok_or_else(|| anyhow::anyhow!("the net was not verified"))?;
    let outcome =
        Outcome { run: args.out.clone(), net: run.net, verify, peak_memory_bytes: peak_memory_bytes() };
    Ok((outcome, trustworthy))
}

/// What this very search found, where it is finished. It is not derived again: by fresh measurements it may be
/// another net, whose weights those of the folder are not.
fn finished(global: &Global, args: &HgnasArgs) -> anyhow::Result<Option<(Outcome, bool)>> {
    let Ok(dir) = RunDir::open(&args.out) else { return Ok(None) };
    let (Ok(net), Ok(verify)) = (GnnNetRecord::load(&dir), GnnVerifyRecord::load(&dir)) else {
        return Ok(None);
    };
    if is_of(args, &dir)?.device != args.device.device {
        return Err(RunError::Occupied { path: args.out.clone() }.into());
    }
    if verify.device != args.device.device {
        // What another device said of it is none of this search's.
        let _alone = Turns::alone(&args.out)?;
        let turns = Turns::new(args.turns.as_deref());
        let data = load(&args.task.data, &args.data)?;
        return verified(global, args, &data, GraphRun::open(&dir)?, &turns).map(Some);
    }
    let trustworthy = verify.doubts.is_empty();
    let peak_memory_bytes = peak_memory_bytes();
    Ok(Some((Outcome { run: args.out.clone(), net, verify, peak_memory_bytes }, trustworthy)))
}

/// Where the scores of one setting are kept, but for the number of threads.
struct Scores {
    path: PathBuf,
    child: String,
    data: String,
}

impl Scores {
    fn open(&self, threads: i32) -> Result<ScoreCache, RunError> {
        let setting = Setting { child: self.child.clone(), data: self.data.clone(), threads };
        ScoreCache::open(&self.path, setting)
    }
}

/// The trials, those before an interruption included, and who proposed them.
fn explored(
    global: &Global,
    ground: &Ground,
    trainer: &mut InTurns<'_>,
    cache: &mut ScoreCache,
) -> anyhow::Result<(Vec<Trial>, Box<dyn Proposer>)> {
    let Ground { dir, record, predictor, .. } = ground;
    let GnnRunRecord { space, settings, .. } = record;
    let mut predict = |net: &GnnNet| -> Result<f64, ProblemError> {
        predictor.predict_ns(net).ok_or_else(|| format!("{} has not two layers", key(net)).into())
    };
    let mut problem = GnnProblem::new(space, trainer, &mut predict, cache, settings.seed);
    let mut proposer = record.strategy.proposer(&space.tokens(), settings.seed)?;
    let mut watch = Watch::new("search", global.quiet);
    let mut monitor = watch.monitor(interrupt::watch());
    let trials = explore(&mut problem, &mut *proposer, settings, Some(&dir.search_log()), &mut monitor)
        .map_err(interrupted)?;
    Ok((trials, proposer))
}

/// Trains in turns with the searches beside this one.
struct InTurns<'a> {
    trainer: Trainer<'a>,
    turns: &'a Turns,
}

impl Scorer for InTurns<'_> {
    fn score(&mut self, net: &GnnNet, seed: u64) -> Result<Score, ProblemError> {
        let _turn = self.turns.train().map_err(boxed)?;
        self.trainer.score(net, seed)
    }

    fn at_once(&self) -> usize {
        self.trainer.at_once()
    }

    fn score_all(
        &mut self,
        nets: &[(GnnNet, u64)],
        keep: Keep<'_>,
        stop: &AtomicBool,
    ) -> Result<(), ProblemError> {
        let _turn = self.turns.train().map_err(boxed)?;
        self.trainer.score_all(nets, keep, stop)
    }
}

/// How a net is timed.
fn sampling(samples: u32) -> Sampling {
    Sampling { samples, ..Sampling::default() }
}

/// The trials' best as the device measures them; in paper mode under a limit, those within it of nets drawn anew.
fn finalists(
    ground: &Ground,
    trials: &[Trial],
    proposer: &mut dyn Proposer,
    trainer: &Trainer<'_>,
    session: &mut Session,
) -> anyhow::Result<Vec<Finalist>> {
    let Ground { record, measured, subject, child, predictor, .. } = ground;
    let mut timer = GnnTimer::new(session, subject, child.reading);
    let samples = if record.drawn_limit_ns.is_some() { DRAWN_SAMPLES } else { FINAL_SAMPLES };
    let mut timer = FinalTimer::new(&mut timer, measured.reference_ns, sampling(samples));
    if let Some(limit_ns) = record.drawn_limit_ns {
        let nets = drawn::draw(&record.space, proposer, record.settings.seed).into_iter();
        // No trial told yet that these may need more memory than there is.
        let fits = |net: &GnnNet| match trainer.too_large(net) {
            Some(why) => {
                eprintln!("note: {why}: left out");
                false
            }
            None => true,
        };
        let nets: Vec<(GnnNet, f64)> =
            nets.filter(fits).filter_map(|net| predictor.predict_ns(&net).map(|ns| (net, ns))).collect();
        let mut measure = |nets: &[GnnNet]| timer.measure_all_ns(nets).map_err(boxed);
        return drawn::within(&nets, limit_ns, &mut measure, interrupt::watch()).map_err(interrupted);
    }
    let mut measure = |net: &GnnNet| timer.measure_ns(net).map_err(boxed);
    let limit_ns = record.settings.reward.limit_ns;
    choose(&record.space, trials, limit_ns, &record.finals, &mut measure, interrupt::watch())
        .map_err(interrupted)
}

/// An error as it is and not inside another, so that [`unboxed`] knows it again.
fn boxed(error: anyhow::Error) -> ProblemError {
    error.reallocate_into_boxed_dyn_error_without_backtrace()
}

fn net_record(
    finalists: Vec<Finalist>,
    measured: &Measured,
    limit_ns: Option<f64>,
    trained: usize,
    predictor: &Predictor,
) -> anyhow::Result<GnnNetRecord> {
    let first = finalists.first().ok_or_else(|| anyhow::anyhow!("the search has no finalist"))?;
    Ok(GnnNetRecord {
        schema_version: SCHEMA_VERSION,
        net: first.net.clone(),
        summary: key(&first.net),
        predicted_ns: first.predicted_ns,
        measured_ns: first.measured_ns,
        reference_ns: Some(measured.reference_ns),
        limit_ns,
        validation: first.validation(),
        test: first.test(),
        runs: first.scores.len(),
        trained,
        predictor: Some(*predictor.test()),
        finalists,
    })
}

/// The error behind that of training or measuring, by whose kind the exit code tells an interruption from a
/// lost device.
fn unboxed(error: ProblemError) -> anyhow::Error {
    let error = match error.downcast::<Interrupted>() {
        Ok(interrupted) => return (*interrupted).into(),
        Err(error) => error,
    };
    let error = match error.downcast::<ProfileError>() {
        Ok(error) => return (*error).into(),
        Err(error) => error,
    };
    match error.downcast::<LinkError>() {
        Ok(error) => (*error).into(),
        Err(error) => anyhow::anyhow!(error),
    }
}

fn interrupted(error: SearchError) -> anyhow::Error {
    match error {
        SearchError::Problem(error) => unboxed(error),
        SearchError::Interrupted => {
            Interrupted { kept: "the same command goes on from the last trial".to_owned() }.into()
        }
        other => other.into(),
    }
}

fn print(global: &Global, outcome: &Outcome) -> anyhow::Result<()> {
    if global.format == Format::Json {
        return json(outcome);
    }
    let Outcome { run: folder, net, verify, peak_memory_bytes } = outcome;
    text(&format!(
        "{}\nover {} trainings: validation {}, test {}\n{}{} architectures trained, peak memory {}; {}\n",
        net.summary,
        net.runs,
        percent(net.validation),
        percent(net.test),
        lines(net, verify),
        net.trained,
        Bytes(*peak_memory_bytes),
        folder.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::super::exit_code;
    use super::*;

    #[test]
    fn an_exit_code_is_told_through_a_search() {
        let code = |error: anyhow::Error| exit_code(&interrupted(SearchError::Problem(boxed(error))));
        let link = || LinkError::Restarted { url: "tcp://board".to_owned() };
        assert_eq!(code(Interrupted { kept: "all".to_owned() }.into()), 130);
        assert_eq!([code(link().into()), code(ProfileError::Link(link()).into())], [3, 3]);
        assert_eq!(code(anyhow::anyhow!("no memory")), 1);
        assert_eq!(exit_code(&interrupted(SearchError::NoFinalist(String::new()))), super::super::NO_NET);
    }
}

//! The report: one HTML file that holds everything it shows.
//!
//! In: plain data, which the caller takes from the store and from runs. Out: HTML. A section without
//! data is left out; a picture that cannot be drawn says why in its place.

use hanas_proto::measure::RoundContext;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use super::graph_space;
use super::line_chart::LineChart;
use super::net_chart::Net;
use super::sections;
use crate::latency::Estimate;
use crate::space::hgnas::GraphSpace;
use crate::space::htas::HardwareSpace;
use crate::store::{Device, SessionRow};

/// Everything a report can show.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    /// Headline: the run's or task's name.
    pub title: String,
    /// When the page was made, milliseconds since 1970.
    pub made_unix_ms: i64,
    /// What matters most, a sentence each.
    pub findings: Vec<String>,
    /// The device, where one was measured.
    pub device: Option<Device>,
    /// Its sessions, with verdicts.
    pub sessions: Vec<Session>,
    /// Spaces made from them.
    pub spaces: Vec<Space>,
    /// Spaces of graph nets.
    pub graph_spaces: Vec<GraphPart>,
    /// Nets: the base and what the strategies found.
    pub nets: Vec<Net>,
    /// Curves of searches and trainings.
    pub curves: Vec<LineChart>,
    /// What the harness itself costs.
    pub overhead: Option<Overhead>,
    /// How it was made.
    pub making: Making,
}

/// A session and its rounds' circumstances.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// The session as stored.
    pub row: SessionRow,
    /// Its rounds.
    pub contexts: Vec<(u32, RoundContext)>,
}

/// A space and whether it is up to date.
#[derive(Debug, Clone, PartialEq)]
pub struct Space {
    /// What it is for: `cifar10-resnet20 on pi4`.
    pub title: String,
    /// The space.
    pub space: HardwareSpace,
    /// Sessions newer than the space.
    pub newer_sessions: usize,
}

/// A space of heads and dims and whether it is up to date.
#[derive(Debug, Clone, PartialEq)]
pub struct GraphPart {
    /// What it is for: `cora-gnn`.
    pub title: String,
    /// The space.
    pub space: GraphSpace,
    /// Sessions newer than the space.
    pub newer_sessions: usize,
}

/// The harness's own cost: a model that does nothing, timed like all others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overhead {
    /// Latency of the null model.
    pub null: Estimate,
    /// Latency of the fastest candidate, ns.
    pub shortest_ns: f64,
}

/// How a report came about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Making {
    /// Commands in order, as typed.
    pub commands: Vec<String>,
    /// Program or library, and its version.
    pub versions: Vec<(String, String)>,
    /// What a reader has to know: deviations, what was not measured.
    pub notes: Vec<String>,
}

const STYLE: &str = include_str!("style.css");

/// A section: name for links, heading, content.
type Section = (&'static str, &'static str, Markup);

impl Page {
    /// The page as HTML.
    #[must_use]
    pub fn html(&self) -> String {
        let sections = self.sections();
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    h1 { (self.title) }
                    p.small { "hanas report, " (sections::date(self.made_unix_ms)) }
                    @for finding in &self.findings { p { (finding) } }
                    nav { @for (name, heading, _) in &sections { a href={ "#" (name) } { (heading) } } }
                    @for (name, heading, content) in &sections {
                        section {
                            h2 id=(name) { (heading) }
                            (content)
                        }
                    }
                }
            }
        };
        page.into_string()
    }

    fn sections(&self) -> Vec<Section> {
        let mut sections: Vec<Section> = Vec::new();
        if self.device.is_some() || !self.sessions.is_empty() {
            let content = sections::device(self.device.as_ref(), &self.sessions);
            sections.push(("device", "Device and verdict", content));
        }
        if !self.nets.is_empty() {
            sections.push(("nets", "Nets", sections::nets(&self.nets)));
        }
        if !self.spaces.is_empty() {
            sections.push(("space", "Search space", sections::spaces(&self.spaces)));
        }
        if !self.graph_spaces.is_empty() {
            let content = html! { @for part in &self.graph_spaces { (graph_space::section(part)) } };
            sections.push(("graph-space", "Search space of graph nets", content));
        }
        if !self.curves.is_empty() {
            sections.push(("curves", "Searches and trainings", sections::curves(&self.curves)));
        }
        if self.sessions.iter().any(|session| !session.contexts.is_empty()) {
            sections.push(("contexts", "Circumstances", sections::contexts(&self.sessions)));
        }
        if let Some(overhead) = &self.overhead {
            sections.push(("overhead", "Harness overhead", sections::overhead(overhead)));
        }
        sections.push(("making", "How it was made", sections::making(&self.making)));
        sections
    }
}

/// A stored verdict in words; JSON of another version is shown as it is.
pub(super) fn verdict_text(verdict: &Value) -> String {
    serde_json::from_value::<crate::latency::verdict::Verdict>(verdict.clone())
        .map_or_else(|_| verdict.to_string(), |verdict| verdict.to_string())
}

#[cfg(test)]
pub(super) mod tests {
    use hanas_models::gnn::{GnnNet, Reading};
    use hanas_models::resnet::Family;
    use hanas_proto::{Digest, Nanos};

    use super::super::line_chart::Series;
    use super::*;
    use crate::latency::synthetic::{Noise, rng, scaled_visits};
    use crate::latency::verdict::{Reason, Verdict};
    use crate::latency::{Statistic, estimate};
    use crate::profile::candidates::space_layers;
    use crate::space::hgnas::{GraphSettings, some_pairs};
    use crate::space::htas::Settings;
    use crate::space::rules::Rules;
    use crate::store::{DeviceId, ModelId, ModelSamples, ModelSpec, Plan, SessionId};

    /// A made-up device with stairs of 8 channels at the small maps and a rough curve at 32x32.
    pub(in crate::report) fn demo_space() -> HardwareSpace {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let mut rng = rng(11);
        let ns = |cout: u32, side: u32| {
            let rough = if side == 32 { f64::from(cout * 7 % 11) * 3_000.0 } else { 0.0 };
            30_000.0 + 6_000.0 * f64::from(cout.div_ceil(8)) * f64::from(side) / 8.0 + rough
        };
        let sample = |layer: hanas_models::layer::Layer| ModelSamples {
            id: ModelId(0),
            digest: Digest([0; 32]),
            spec: ModelSpec::Layer { layer },
            onnx_bytes: 300,
            visits: scaled_visits(&mut rng, Noise::HeavyTail, 20, 5, ns(layer.cout, layer.kind.side())),
        };
        let samples: Vec<ModelSamples> = space_layers(&family, 2).concat().into_iter().map(sample).collect();
        HardwareSpace::build(&family, &samples, Settings::new(Rules::project(), 1, 1)).unwrap()
    }

    /// A made-up device whose latency goes up by stairs of 8 values of a head.
    pub(in crate::report) fn demo_graph_space() -> GraphSpace {
        let mut rng = rng(5);
        let ns = |[heads, dim]: [u32; 2]| 2e6 + 9e3 * f64::from(heads) * f64::from(dim.div_ceil(8) * 8);
        let sample = |pair: [u32; 2]| ModelSamples {
            id: ModelId(0),
            digest: Digest([0; 32]),
            spec: ModelSpec::Graph {
                net: GnnNet::reference(30, 3, pair[0], pair[1]),
                reading: Reading::project(),
                graph: "tiny".to_owned(),
            },
            onnx_bytes: 300,
            visits: scaled_visits(&mut rng, Noise::Gaussian, 6, 2, ns(pair)),
        };
        let samples: Vec<ModelSamples> = some_pairs(420, 1).unwrap().into_iter().map(sample).collect();
        let settings = GraphSettings {
            rules: Rules { floor: 1, ..Rules::project() },
            reading: Reading::project(),
            clock_resolution_ns: 1,
            seed: 1,
            guessed_line: true,
        };
        GraphSpace::build("tiny", &samples, settings).unwrap()
    }

    fn session(id: i64, trustworthy: bool) -> Session {
        let reasons = if trustworthy { vec![] } else { vec![Reason::Steal { share: 0.034 }] };
        let verdict = serde_json::to_value(Verdict { trustworthy, reasons }).unwrap();
        let context = |round: u32| RoundContext {
            wall_us: 1_000_000,
            cpu_us: 900_000,
            steal_us: Some(if round == 7 { 90_000 } else { 2_000 }),
            temperature_mc: Some(48_000 + 400 * round as i32),
            frequency_khz: Some(1_800_000),
            involuntary_switches: 4,
            ..RoundContext::default()
        };
        Session {
            row: SessionRow {
                id: SessionId(id),
                device: DeviceId(1),
                task: "cifar10-resnet20".to_owned(),
                batch: 1,
                seed: 7,
                plan: Plan { rounds: 20, warmup: 2, runs: 5, visit_limit: Nanos(0) },
                started_unix_ms: 1_780_000_000_000,
                samples: 22_400,
                verdict: Some((trustworthy, verdict)),
            },
            contexts: (0..20).map(|round| (round, context(round))).collect(),
        }
    }

    fn net(name: &str, strategy: &str, accuracy: f64, latency_ns: f64) -> Net {
        Net {
            name: name.to_owned(),
            strategy: strategy.to_owned(),
            accuracy: Some(accuracy),
            latency_ns: Some(latency_ns),
            latency_se_ns: latency_ns * 0.01,
            predicted_ns: (strategy != "base").then_some(latency_ns * 1.04),
            budget_ns: (strategy != "base").then_some(1.9e6),
            macs: Some(40_813_184),
            params: 272_474,
            widths: "16 | 16-16 16-16 16-16 | 32-32 32-32 32-32 | 64-64 64-64 64-64".to_owned(),
        }
    }

    fn page() -> Page {
        let curve = |name: &str, to: f64, from: f64| Series {
            name: name.to_owned(),
            points: (1..=12)
                .map(|e| (f64::from(e), (from - to).mul_add((-f64::from(e) / 4.0).exp(), to)))
                .collect(),
        };
        let chart = |title: &str, y_label: &str, series| LineChart {
            title: title.to_owned(),
            x_label: "epoch".to_owned(),
            y_label: y_label.to_owned(),
            series,
        };
        let visits = scaled_visits(&mut rng(2), Noise::Gaussian, 20, 5, 900.0);
        Page {
            title: "cifar10-resnet20 on <pi4>".to_owned(),
            made_unix_ms: 1_780_000_500_000,
            findings: vec!["The net found is 2.1 times as fast as the base.".to_owned()],
            device: Some(Device {
                name: "pi4".to_owned(),
                cpu: "Cortex-A72".to_owned(),
                runtime: "tract 0.23.9".to_owned(),
                threads: 1,
                cores: 4,
                memory_bytes: 4 << 30,
                clock_resolution_ns: 18,
                ..Device::default()
            }),
            sessions: vec![session(1, true), session(2, false)],
            spaces: vec![Space {
                title: "cifar10-resnet20".to_owned(),
                space: demo_space(),
                newer_sessions: 1,
            }],
            graph_spaces: vec![GraphPart {
                title: "tiny-gnn".to_owned(),
                space: demo_graph_space(),
                newer_sessions: 0,
            }],
            nets: vec![
                net("base", "base", 0.912, 4.02e6),
                net("htas seed 1", "htas", 0.894, 1.83e6),
                net("htas seed 2", "htas", 0.897, 1.87e6),
                net("uniform", "uniform", 0.871, 1.86e6),
                net("random", "random", 0.888, 1.9e6),
            ],
            curves: vec![
                chart(
                    "Search: loss",
                    "cross-entropy",
                    vec![curve("weights", 0.7, 2.3), curve("architecture", 0.8, 2.3)],
                ),
                chart(
                    "Search: latency of the argmax net",
                    "latency (ms)",
                    vec![curve("predicted", 1.85, 4.0)],
                ),
            ],
            overhead: Some(Overhead {
                null: estimate(&visits, Statistic::default(), 18).unwrap(),
                shortest_ns: 31_000.0,
            }),
            making: Making {
                commands: vec!["hanas profile --device pi4 --task cifar10-resnet20".to_owned()],
                versions: vec![("hanas".to_owned(), "0.1.0".to_owned())],
                notes: vec!["Data: procedural images, not CIFAR-10.".to_owned()],
            },
        }
    }

    #[test]
    fn a_page_is_whole_and_loads_nothing() {
        let html = page().html();
        for part in ["device", "nets", "space", "graph-space", "curves", "contexts", "overhead", "making"] {
            assert!(html.contains(&format!("<h2 id=\"{part}\"")), "{part}");
        }
        assert_eq!(html.matches("<svg").count(), 6 + 1 + 1 + 2 + 4, "stages, pairs, nets, curves, contexts");
        assert!(html.contains("cifar10-resnet20 on &lt;pi4&gt;"));
        for outside in ["<script", "<link", "@import", "url(", "src="] {
            assert!(!html.contains(outside), "{outside}");
        }
        assert!(html.contains("a hypervisor took 3.4% of the processor time"));
        // Set by hand to look at the page in a browser.
        if let Some(path) = std::env::var_os("HANAS_TEST_PAGE") {
            std::fs::write(path, &html).unwrap();
        }
    }

    #[test]
    fn an_empty_page_is_a_page() {
        let html = Page::default().html();
        assert!(html.contains("How it was made") && !html.contains("<svg"));
    }
}

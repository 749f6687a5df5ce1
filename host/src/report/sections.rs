//! The parts of the page, each from plain data.

use hanas_proto::measure::RoundContext;
use hanas_proto::{Bytes, Nanos};
use maud::{Markup, PreEscaped, html};

use super::ReportError;
use super::line_chart::{LineChart, Series};
use super::net_chart::{Net, net_chart};
use super::page::{Making, Overhead, Session, Space, verdict_text};
use super::space_chart::{latency_chart, score_chart};
use crate::space::htas::{HardwareSpace, StageSpace};
use crate::space::partition::point_text;
use crate::store::Device;

/// `2026-05-28 20:26 UTC` (days to a date: Hinnant, chrono-compatible date algorithms, 2013).
#[must_use]
pub fn date(unix_ms: i64) -> String {
    let minutes = unix_ms.div_euclid(60_000);
    let (days, minute) = (minutes.div_euclid(1_440), minutes.rem_euclid(1_440));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", minute / 60, minute % 60)
}

pub(super) fn ns(value: f64) -> String {
    if value < 0.0 { format!("-{}", Nanos::from_f64(-value)) } else { Nanos::from_f64(value).to_string() }
}

pub(super) fn latency(value: f64, se: f64) -> String {
    // An error of nothing is one that was not taken.
    if se > 0.0 { format!("{} +- {}", ns(value), ns(se)) } else { ns(value) }
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// A picture, or why there is none.
pub(super) fn figure(picture: Result<String, ReportError>) -> Markup {
    match picture {
        Ok(svg) => html! { figure { (PreEscaped(svg)) } },
        Err(error) => html! { p.small { (error) } },
    }
}

/// What was measured, and whether it is to be trusted.
pub(super) fn device(device: Option<&Device>, sessions: &[Session]) -> Markup {
    html! {
        @if let Some(device) = device {
            div.wide { table {
                @for (name, value) in facts(device) {
                    tr { th { (name) } td { (value) } }
                }
            } }
        }
        @if !sessions.is_empty() {
            h3 { "Sessions" }
            div.wide { table {
                tr {
                    th { "Session" } th { "Started" } th { "Task" } th.n { "Batch" } th.n { "Timed runs" }
                    th { "Verdict" }
                }
                @for session in sessions {
                    tr {
                        td { (session.row.id.0) }
                        td { (date(session.row.started_unix_ms)) }
                        td { (session.row.task) }
                        td.n { (session.row.batch) }
                        td.n { (session.row.samples) }
                        td { (verdict(session)) }
                    }
                }
            } }
        }
    }
}

fn verdict(session: &Session) -> Markup {
    match &session.row.verdict {
        None => html! { "not finished" },
        Some((true, _)) => html! { span.good { "trustworthy" } },
        Some((false, why)) => {
            let text = verdict_text(why);
            let mut lines = text.lines();
            html! {
                span.bad { (lines.next().unwrap_or_default()) }
                @for line in lines { br; (line.trim()) }
            }
        }
    }
}

fn facts(device: &Device) -> Vec<(&'static str, String)> {
    let pinned = if device.pinned == 0 { "no".to_owned() } else { format!("mask {:#x}", device.pinned) };
    let all = vec![
        ("Name", device.name.clone()),
        ("Processor", device.cpu.clone()),
        ("Architecture", device.arch.clone()),
        ("System", device.os.clone()),
        ("Cores", device.cores.to_string()),
        ("Memory", Bytes(device.memory_bytes).to_string()),
        ("Governor", device.governor.clone()),
        ("Clock step", format!("{} ns", device.clock_resolution_ns)),
        ("Runtime", device.runtime.clone()),
        ("Threads", device.threads.to_string()),
        ("Pinned", pinned),
        ("Agent", device.agent.clone()),
    ];
    all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

/// Nets side by side.
pub(super) fn nets(nets: &[Net]) -> Markup {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "not measured".to_owned());
    let base_ns = nets.iter().find(|net| net.strategy == "base").and_then(|net| net.latency_ns);
    let ratio = |net: &Net| Some(format!("{:.2}x", net.latency_ns? / base_ns?));
    html! {
        (figure(net_chart(nets)))
        div.wide { table {
            tr {
                th { "Net" } th { "Strategy" } th.n { "Accuracy" } th.n { "Measured latency" } th.n { "of base" }
                th.n { "Predicted" } th.n { "Limit" } th.n { "MACs" } th.n { "Parameters" }
            }
            @for net in nets {
                tr.base[net.strategy == "base"] {
                    td { (net.name) }
                    td { (net.strategy) }
                    td.n { (or_dash(net.accuracy.map(percent))) }
                    td.n {
                        @let over = net.latency_ns.zip(net.budget_ns).is_some_and(|(is, may)| is > 1.05 * may);
                        span.bad[over] { (or_dash(net.latency_ns.map(|is| latency(is, net.latency_se_ns)))) }
                    }
                    td.n { (ratio(net).unwrap_or_default()) }
                    td.n { (net.predicted_ns.map(ns).unwrap_or_default()) }
                    td.n { (net.budget_ns.map(ns).unwrap_or_default()) }
                    td.n { (net.macs.map(|macs| format!("{:.2} M", macs as f64 / 1e6)).unwrap_or_default()) }
                    td.n { (format!("{:.1} k", net.params as f64 / 1e3)) }
                }
            }
        } }
        details {
            summary { "Widths and layers" }
            div.wide { table { @for net in nets {
                tr { th { (net.name) } td { code { (net.widths) } } }
            } } }
        }
    }
}

/// Spaces: choices, pictures, how sure they are.
pub(super) fn spaces(spaces: &[Space]) -> Markup {
    html! {
        @for Space { title, space, newer_sessions } in spaces {
            h3 { (title) }
            @if *newer_sessions > 0 {
                p.bad { "Stale: sessions newer than this space: " (newer_sessions) ". Build it again." }
            }
            p { (rules(space)) }
            p { (certainty(space)) }
            div.wide { table {
                tr { th { "Stage" } th { "Map" } th { "Widths" } th { "Line f" } th.n { "r2" } }
                @for stage in &space.stages { (stage_row(stage)) }
            } }
            @for stage in &space.stages {
                (figure(latency_chart(stage)))
                (figure(score_chart(stage)))
                details {
                    summary { "Choices of stage " (stage.stage + 1) }
                    (choices(stage))
                }
            }
        }
    }
}

fn rules(space: &HardwareSpace) -> String {
    let settings = &space.settings;
    let rules = &settings.rules;
    format!(
        "{}, e = {}, {} groups a stage, batch {}; latency is the {} of the timed runs, score s = f - m - {} se, \
         ties within {} combined errors go to the wider, smallest width {}.",
        space.family,
        settings.expand,
        settings.groups,
        settings.batch,
        rules.statistic,
        rules.z,
        rules.tie,
        rules.floor
    )
}

fn certainty(space: &HardwareSpace) -> String {
    let (same, all) = space.mean_same();
    let aside = space.set_aside().map(|text| format!(" {text}")).unwrap_or_default();
    format!(
        "A rerun of the profile would repeat {same:.1} of the {all} choices on average, and all of them with \
         probability {:.2} (block bootstrap of the stored runs).{aside}",
        space.rerun_same()
    )
}

fn stage_row(stage: &StageSpace) -> Markup {
    let choices = &stage.selection.choices;
    let widths: Vec<String> = choices.iter().map(|choice| point_text(&choice.chosen.point)).collect();
    let fitted = &stage.selection.fitted;
    let power = if fitted.fit.alpha == 1.0 { String::new() } else { format!("^{}", fitted.fit.alpha) };
    html! {
        tr {
            td { (stage.stage + 1) }
            td { (stage.side) "x" (stage.side) }
            td { (widths.join(", ")) }
            td {
                (ns(fitted.fit.k_ns)) " x" (power) " + " (ns(fitted.fit.b_ns))
                @if fitted.negative_intercept() { span.bad { " negative at zero" } }
            }
            td.n { (format!("{:.3}", fitted.r2)) }
        }
        @for dropped in &stage.selection.dropped {
            tr { td {} td colspan="4" { "group " (dropped.cell) " has no choice: " (dropped.reason) } }
        }
    }
}

fn choices(stage: &StageSpace) -> Markup {
    html! {
        div.wide { table {
            tr {
                th { "Group" } th.n { "Width" } th.n { "Latency" } th.n { "Line" } th.n { "Score" }
                th.n { "Rerun picks it" } th { "Tied with" } th { "Remark" }
            }
            @for choice in &stage.selection.choices {
                @let of = &choice.chosen;
                tr {
                    td { (choice.cell) }
                    td.n { (point_text(&of.point)) }
                    td.n { (latency(of.m_ns, of.se_ns)) }
                    td.n { (ns(of.f_ns)) }
                    td.n { (ns(of.score_ns)) }
                    td.n { (choice.rerun_same.map(percent).unwrap_or_default()) }
                    td { (choice.tied.iter().map(|point| point_text(point)).collect::<Vec<_>>().join(", ")) }
                    td {
                        @if let Some(point) = &choice.below_floor {
                            (point_text(point)) " but for the floor"
                        }
                    }
                }
            }
        } }
    }
}

/// Curves one below the other.
pub(super) fn curves(curves: &[LineChart]) -> Markup {
    html! { @for chart in curves { (figure(chart.svg())) } }
}

/// What the device did while it was measured.
pub(super) fn contexts(sessions: &[Session]) -> Markup {
    html! {
        @for session in sessions.iter().filter(|session| !session.contexts.is_empty()) {
            h3 { "Session " (session.row.id.0) }
            p { (circumstances(&session.contexts)) }
            details open[sessions.len() <= 2] {
                summary { "Round by round" }
                @for chart in context_charts(session) { (figure(chart.svg())) }
            }
        }
    }
}

fn circumstances(contexts: &[(u32, RoundContext)]) -> String {
    let all = || contexts.iter().map(|(_, context)| context);
    let wall_s = all().map(|context| context.wall_us).sum::<u64>() as f64 / 1e6;
    let mut text = format!("{} rounds in {wall_s:.1} s", contexts.len());
    let mut range = |name: &str, unit: &str, values: &mut dyn Iterator<Item = f64>| {
        let ends = values.fold(None, |ends: Option<(f64, f64)>, value| {
            Some(ends.map_or((value, value), |(low, high)| (low.min(value), high.max(value))))
        });
        if let Some((low, high)) = ends {
            text.push_str(&format!("; {name} {low:.1} to {high:.1} {unit}"));
        }
    };
    let temperature = |context: &RoundContext| Some(f64::from(context.temperature_mc?) / 1e3);
    let frequency = |context: &RoundContext| Some(f64::from(context.frequency_khz?) / 1e3);
    range("temperature", "degrees Celsius", &mut all().filter_map(temperature));
    range("frequency", "MHz", &mut all().filter_map(frequency));
    if all().any(|context| context.steal_us.is_some()) {
        let steal_s = all().filter_map(|context| context.steal_us).sum::<u64>() as f64 / 1e6;
        text.push_str(&format!("; a hypervisor took {steal_s:.2} s of processor time"));
    }
    let switches: u64 = all().map(|context| u64::from(context.involuntary_switches)).sum();
    text.push_str(&format!("; the worker lost its processor {switches} times."));
    text
}

fn context_charts(session: &Session) -> Vec<LineChart> {
    let series = |of: &dyn Fn(&RoundContext) -> Option<f64>| -> Vec<(f64, f64)> {
        let point = |(round, context): &(u32, RoundContext)| Some((f64::from(*round), of(context)?));
        session.contexts.iter().filter_map(point).collect()
    };
    let temperature = series(&|context| Some(f64::from(context.temperature_mc?) / 1e3));
    let steal = series(&|context| Some(100.0 * context.steal_us? as f64 / context.wall_us.max(1) as f64));
    let chart = |what: &str, y_label: &str, name: &str, points| LineChart {
        title: format!("Session {}: {what}", session.row.id.0),
        x_label: "round".to_owned(),
        y_label: y_label.to_owned(),
        series: vec![Series { name: name.to_owned(), points }],
    };
    let charts = [
        chart("temperature", "degrees Celsius", "hottest sensor", temperature),
        chart("steal time", "% of one processor", "taken by the hypervisor", steal),
    ];
    charts.into_iter().filter(|chart| !chart.series[0].points.is_empty()).collect()
}

/// What timing itself costs.
pub(super) fn overhead(overhead: &Overhead) -> Markup {
    let Overhead { null, shortest_ns } = overhead;
    html! {
        p {
            "A model that does nothing takes " (latency(null.value_ns, null.se_ns)) " (" (null.samples)
            " timed runs): " (percent(null.value_ns / shortest_ns)) " of the fastest candidate, "
            (ns(*shortest_ns)) ". It is contained in every latency of this page."
        }
    }
}

/// Commands, versions, remarks.
pub(super) fn making(making: &Making) -> Markup {
    html! {
        @for note in &making.notes { p { (note) } }
        @if !making.commands.is_empty() { pre { (making.commands.join("\n")) } }
        @if !making.versions.is_empty() {
            div.wide { table { @for (name, version) in &making.versions {
                tr { th { (name) } td { (version) } }
            } } }
        }
        p.small {
            "The methods are HTAS and HGNAS of Wang et al., Hardware-aware neural architecture search, Sci Sin Inform 53 \
             (2023) 899-917."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_the_calendars() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400_000), "2000-02-29 00:00 UTC");
        assert_eq!(date(1_780_000_000_000), "2026-05-28 20:26 UTC");
        assert_eq!(date(-60_000), "1969-12-31 23:59 UTC");
    }
}

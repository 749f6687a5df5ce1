//! One stage of a space: latency over width (paper, Fig. 2) and scores over width (Fig. 3).

use plotters::element::{Circle, PathElement, Rectangle, Text};
use plotters::series::{DashedLineSeries, LineSeries};
use plotters::style::Color;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::ReportError;
use super::canvas::{
    BLUE, Chart, Entry, Frame, GREEN, INK, Mark, TEXT_SIZE, VERMILLION, refused, stroke, text, time_unit,
};
use crate::space::htas::StageSpace;

/// Height of the line of choices' names, as a share of the axis.
const HEADROOM: f64 = 0.16;

/// What both pictures need of a stage.
struct Plot<'a> {
    stage: &'a StageSpace,
    /// Name and length in ns of the unit.
    unit: (&'static str, f64),
    widest: f64,
}

impl<'a> Plot<'a> {
    fn new(stage: &'a StageSpace) -> Self {
        let curve = &stage.selection.curve;
        let slowest = curve.iter().map(|of| of.m_ns.max(of.f_ns)).fold(0.0, f64::max);
        let widest = curve.iter().map(|of| of.x).fold(0.0, f64::max);
        Self { stage, unit: time_unit(slowest), widest }
    }

    fn what(&self) -> String {
        let StageSpace { stage, side, .. } = self.stage;
        let cins = self.stage.cins_text();
        format!("Stage {} ({side}x{side}, 3x3 convolution from {cins} channels)", stage + 1)
    }

    fn in_unit(&self, ns: f64) -> f64 {
        ns / self.unit.1
    }

    /// Upper ends of all groups, half a channel to the right.
    fn boundaries(&self) -> Vec<f64> {
        let selection = &self.stage.selection;
        let kept = selection.choices.iter().map(|choice| &choice.cell);
        let cells = kept.chain(selection.dropped.iter().map(|dropped| &dropped.cell));
        cells.filter_map(|cell| cell.0.first()).map(|group| f64::from(group.hi) + 0.5).collect()
    }

    fn groups(&self, chart: &mut Chart<'_, '_>, y: (f64, f64)) -> Result<(), ReportError> {
        for x in self.boundaries() {
            let line = [(x, y.0), (x, y.1)];
            let dashes = DashedLineSeries::new(line, 3, 4, stroke(INK.mix(0.35), 1));
            chart.draw_series(dashes).map_err(refused)?;
        }
        Ok(())
    }

    /// The chosen widths in a line along the top, each over its own place.
    fn names(&self, chart: &mut Chart<'_, '_>, y: f64) -> Result<(), ReportError> {
        let style = text(TEXT_SIZE).color(&VERMILLION).pos(Pos::new(HPos::Center, VPos::Center));
        let spots = self.spots();
        let names = self
            .stage
            .selection
            .choices
            .iter()
            .zip(spots)
            .map(|(choice, x)| Text::new(format!("{}", choice.chosen.x), (x, y), style.clone()));
        chart.draw_series(names).map_err(refused)?;
        Ok(())
    }

    /// Where names go: at their widths, moved right where the one before would be touched.
    fn spots(&self) -> Vec<f64> {
        let room = self.widest * 0.032;
        let mut last = f64::NEG_INFINITY;
        let mut spots = Vec::new();
        for choice in &self.stage.selection.choices {
            last = choice.chosen.x.max(last + room);
            spots.push(last);
        }
        spots
    }
}

/// Measured latency over width: points, the fitted line, group boundaries, the choices.
///
/// # Errors
/// [`ReportError`] for a stage without points.
pub fn latency_chart(stage: &StageSpace) -> Result<String, ReportError> {
    let plot = Plot::new(stage);
    let selection = &stage.selection;
    let tops = selection.curve.iter().map(|of| plot.in_unit(of.m_ns.max(of.f_ns)));
    let top = tops.fold(0.0, f64::max);
    let fit = selection.fitted.fit;
    let fit_text = if plot.unit.1 == 1.0 {
        format!("fit f: {:.1} x^{} + {:.0} ns", fit.k_ns, fit.alpha, fit.b_ns)
    } else {
        format!(
            "fit f: {:.3} x^{} + {:.1} {}",
            fit.k_ns / plot.unit.1,
            fit.alpha,
            fit.b_ns / plot.unit.1,
            plot.unit.0
        )
    }
    .replace("x^1 ", "x ");
    let statistic = "measured";
    let legend = [
        Entry { mark: Mark::Line, colour: BLUE.to_rgba(), text: statistic },
        Entry { mark: Mark::Dashed, colour: GREEN.to_rgba(), text: &fit_text },
        Entry { mark: Mark::Dot, colour: VERMILLION.to_rgba(), text: "choice of each group" },
        Entry { mark: Mark::Dashed, colour: INK.mix(0.5), text: "group boundary" },
    ];
    let frame = Frame {
        title: &format!("{}: latency", plot.what()),
        x_label: "output channels",
        y_label: &format!("latency ({})", plot.unit.0),
        x: (0.0, plot.widest + 1.0),
        y: (0.0, top * (1.0 + HEADROOM)),
        legend: &legend,
    };
    frame.draw(|chart| {
        plot.groups(chart, (0.0, top * (1.0 + HEADROOM)))?;
        let line = selection.curve.iter().map(|of| (of.x, plot.in_unit(of.f_ns)));
        chart.draw_series(DashedLineSeries::new(line, 8, 5, stroke(GREEN, 2))).map_err(refused)?;
        let curve = || selection.curve.iter().map(|of| (of.x, plot.in_unit(of.m_ns)));
        chart.draw_series(LineSeries::new(curve(), stroke(BLUE, 1))).map_err(refused)?;
        let radius = if plot.widest > 80.0 { 2 } else { 3 };
        let dots = curve().map(|at| Circle::new(at, radius, BLUE.filled()));
        chart.draw_series(dots).map_err(refused)?;
        let chosen =
            selection.choices.iter().map(|choice| (choice.chosen.x, plot.in_unit(choice.chosen.m_ns)));
        chart.draw_series(chosen.map(|at| Circle::new(at, 6, VERMILLION.filled()))).map_err(refused)?;
        plot.names(chart, top * (1.0 + HEADROOM * 0.6))
    })
}

/// Score of every width: bars, groups, the choices.
///
/// # Errors
/// [`ReportError`] for a stage without points.
pub fn score_chart(stage: &StageSpace) -> Result<String, ReportError> {
    let plot = Plot::new(stage);
    let selection = &stage.selection;
    let scores = || selection.curve.iter().map(|of| of.score_ns);
    let unit = time_unit(scores().map(f64::abs).fold(0.0, f64::max));
    let low = scores().fold(0.0, f64::min) / unit.1;
    let high = scores().fold(0.0, f64::max) / unit.1;
    let height = (high - low).max(f64::MIN_POSITIVE);
    let legend = [
        Entry { mark: Mark::Block, colour: BLUE.mix(0.45), text: "score s = f - m" },
        Entry { mark: Mark::Block, colour: VERMILLION.to_rgba(), text: "choice of each group" },
        Entry { mark: Mark::Block, colour: GREEN.to_rgba(), text: "tied with it" },
    ];
    let top = high + HEADROOM * height;
    let frame = Frame {
        title: &format!("{}: score", plot.what()),
        x_label: "output channels",
        y_label: &format!("below the line ({})", unit.0),
        x: (0.0, plot.widest + 1.0),
        y: (low - 0.04 * height, top),
        legend: &legend,
    };
    frame.draw(|chart| {
        plot.groups(chart, (low - 0.04 * height, top))?;
        let bars = selection.curve.iter().map(|of| {
            let chosen = selection.choices.iter().any(|choice| choice.chosen.point == of.point);
            let tied = selection.choices.iter().any(|choice| choice.tied.contains(&of.point));
            let colour = match (chosen, tied) {
                (true, _) => VERMILLION.to_rgba(),
                (_, true) => GREEN.to_rgba(),
                _ => BLUE.mix(0.45),
            };
            Rectangle::new([(of.x - 0.4, 0.0), (of.x + 0.4, of.score_ns / unit.1)], colour.filled())
        });
        chart.draw_series(bars).map_err(refused)?;
        let zero = PathElement::new([(0.0, 0.0), (plot.widest + 1.0, 0.0)], stroke(INK.mix(0.6), 1));
        chart.draw_series([zero]).map_err(refused)?;
        plot.names(chart, high + 0.6 * HEADROOM * height)
    })
}

//! A space of heads and dims: latency against their product with the line and the choices (paper, Fig. 4),
//! and the map of the cells with theirs (Fig. 5).

use maud::{Markup, html};
use plotters::element::Circle;
use plotters::series::DashedLineSeries;
use plotters::style::Color;

use super::ReportError;
use super::canvas::{BLUE, Entry, Frame, GREEN, Mark, VERMILLION, refused, stroke, time_unit};
use super::page::GraphPart;
use super::sections::{figure, latency, ns, percent};
use crate::latency::fit::PowerFit;
use crate::space::hgnas::GraphSpace;
use crate::space::partition::point_text;
use crate::space::select::Choice;

/// A line as a formula: `0.1868 x - 16.48 ms`.
pub(super) fn line_text(fit: PowerFit, unit: &str, unit_ns: f64) -> String {
    let (k, b) = (fit.k_ns / unit_ns, fit.b_ns / unit_ns);
    format!("{k:.4} x {} {:.2} {unit}", if b < 0.0 { '-' } else { '+' }, b.abs())
}

/// Measured latency over heads times dim: points, the fitted line, the choices.
///
/// # Errors
/// [`ReportError`] for a space without points.
pub fn latency_chart(space: &GraphSpace) -> Result<String, ReportError> {
    let curve = &space.selection.curve;
    let top_ns = curve.iter().map(|of| of.m_ns.max(of.f_ns)).fold(0.0, f64::max);
    let widest = curve.iter().map(|of| of.x).fold(0.0, f64::max);
    let (unit, unit_ns) = time_unit(top_ns);
    let fit = space.selection.fitted.fit;
    let fit_text = format!("fit f: {}", line_text(fit, unit, unit_ns));
    let legend = [
        Entry { mark: Mark::Dot, colour: BLUE.mix(0.6), text: "measured pair" },
        Entry { mark: Mark::Dashed, colour: GREEN.to_rgba(), text: &fit_text },
        Entry { mark: Mark::Dot, colour: VERMILLION.to_rgba(), text: "choice of each cell" },
    ];
    let frame = Frame {
        title: &format!("{}: latency of a whole graph", space.graph),
        x_label: "heads x dim",
        y_label: &format!("latency ({unit})"),
        x: (0.0, widest * 1.02),
        y: (0.0, top_ns / unit_ns * 1.05),
        legend: &legend,
    };
    frame.draw(|chart| {
        let dots = curve.iter().map(|of| Circle::new((of.x, of.m_ns / unit_ns), 2, BLUE.mix(0.6).filled()));
        chart.draw_series(dots).map_err(refused)?;
        let line = [0.0, widest].map(|x| (x, fit.at(x) / unit_ns));
        chart.draw_series(DashedLineSeries::new(line, 8, 5, stroke(GREEN, 2))).map_err(refused)?;
        let chosen = space.selection.choices.iter().map(|choice| &choice.chosen);
        let dots = chosen.map(|of| Circle::new((of.x, of.m_ns / unit_ns), 5, VERMILLION.filled()));
        chart.draw_series(dots).map_err(refused)?;
        Ok(())
    })
}

/// A space with its pictures.
pub(super) fn section(part: &GraphPart) -> Markup {
    let GraphPart { title, space, newer_sessions } = part;
    html! {
        h3 { (title) }
        @if *newer_sessions > 0 {
            p.bad { "Stale: sessions newer than this space: " (newer_sessions) ". Build it again." }
        }
        p { (space.summary()) }
        (figure(latency_chart(space)))
        @if space.settings.guessed_line {
            p.small {
                "The line runs through the latencies of all pairs, guessed where they were not measured. Measured "
                "were those that may be a choice, the fast ones: most lie below it."
            }
        }
        (map(space))
        details {
            summary { "Choices" }
            (choices(space))
        }
    }
}

/// Rows are heads, columns dims; the darker a cell, the further its choice lies below the line.
fn map(space: &GraphSpace) -> Markup {
    let rows = space.map();
    // Of its own latency: the line may be negative where pairs are small.
    let gain = |choice: &Choice| choice.chosen.f_ns / choice.chosen.m_ns - 1.0;
    let most = space.selection.choices.iter().map(gain).fold(f64::MIN_POSITIVE, f64::max);
    let shade = |choice: &Choice| (45.0 * (gain(choice) / most).clamp(0.0, 1.0)).round();
    html! {
        div.wide { table.map {
            tr {
                th { "heads \\ dim" }
                @for (dim, _) in rows.first().map_or(&[][..], |row| &row.cells) { th.n { (dim) } }
            }
            @for row in &rows { tr {
                th { (row.heads) }
                @for (_, choice) in &row.cells {
                    @match choice {
                        Some(choice) => {
                            td.n style={ "--shade: " (shade(choice)) "%" } {
                                (point_text(&choice.chosen.point)) br;
                                span.small { (ns(choice.chosen.m_ns)) }
                            }
                        }
                        None => td.n { "-" },
                    }
                }
            } }
        } }
        p.small { "The pair chosen in each cell and its latency; the stronger the shade, the further below the line for its latency." }
    }
}

fn choices(space: &GraphSpace) -> Markup {
    html! {
        div.wide { table {
            tr {
                th { "Cell" } th.n { "Pair" } th.n { "Latency" } th.n { "Line" } th.n { "Rerun picks it" }
                th { "Tied with" }
            }
            @for choice in &space.selection.choices {
                @let of = &choice.chosen;
                tr {
                    td { (choice.cell) }
                    td.n { (point_text(&of.point)) }
                    td.n { (latency(of.m_ns, of.se_ns)) }
                    td.n { (ns(of.f_ns)) }
                    td.n { (choice.rerun_same.map(percent).unwrap_or_default()) }
                    td { (choice.tied.iter().map(|point| point_text(point)).collect::<Vec<_>>().join(", ")) }
                }
            }
        } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_with_its_sign() {
        let text = |b_ns| line_text(PowerFit { k_ns: 2e5, alpha: 1.0, b_ns }, "ms", 1e6);
        assert_eq!([text(1.5e6), text(-1.5e6)], ["0.2000 x + 1.50 ms", "0.2000 x - 1.50 ms"]);
    }
}

//! What all pictures share: colours, lettering, a head with title and legend, axes with units.

use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::{Circle, Color, DrawingArea, IntoDrawingArea, PathElement, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{IntoFont, RGBAColor, RGBColor, ShapeStyle, TextStyle};

use super::ReportError;

/// Stands for the page's text colour and is replaced by it at the end.
pub(super) const INK: RGBColor = RGBColor(1, 2, 3);
/// What was measured.
pub(super) const BLUE: RGBColor = RGBColor(0, 114, 178);
/// What was chosen.
pub(super) const VERMILLION: RGBColor = RGBColor(213, 94, 0);
/// What was fitted.
pub(super) const GREEN: RGBColor = RGBColor(0, 158, 115);

/// Colours of series in order.
pub(super) const SERIES: [RGBColor; 6] =
    [BLUE, VERMILLION, GREEN, RGBColor(204, 121, 167), RGBColor(230, 159, 0), RGBColor(86, 180, 233)];

/// Width of a picture in pixels.
pub(super) const WIDTH: u32 = 920;
/// Height of a picture in pixels.
pub(super) const HEIGHT: u32 = 380;

const TITLE_SIZE: u32 = 21;
/// Plotters' sizes are 1.24 times what it writes: this is 14 px.
pub(super) const TEXT_SIZE: u32 = 17;
/// Width of a letter of [`TEXT_SIZE`], in pixels, on the safe side.
pub(super) const LETTER: i32 = 8;

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// How a legend's entry looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Mark {
    Line,
    Dashed,
    Dot,
    Block,
}

/// An entry of the legend.
pub(super) struct Entry<'a> {
    pub(super) mark: Mark,
    pub(super) colour: RGBAColor,
    pub(super) text: &'a str,
}

/// What a picture is about.
pub(super) struct Frame<'a> {
    pub(super) title: &'a str,
    pub(super) x_label: &'a str,
    pub(super) y_label: &'a str,
    pub(super) x: (f64, f64),
    pub(super) y: (f64, f64),
    pub(super) legend: &'a [Entry<'a>],
}

impl Frame<'_> {
    /// Draws head and axes, then what `content` puts on them; returns the SVG text.
    pub(super) fn draw(
        &self,
        content: impl FnOnce(&mut Chart<'_, '_>) -> Result<(), ReportError>,
    ) -> Result<String, ReportError> {
        let ends = [self.x.0, self.x.1, self.y.0, self.y.1];
        if ends.iter().any(|end| !end.is_finite()) || self.x.0 >= self.x.1 || self.y.0 >= self.y.1 {
            return Err(ReportError::Nothing { picture: self.title.to_owned() });
        }
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
            let legend_rows = self.legend_rows();
            let (head, body) = root.split_vertically(32 + 22 * legend_rows.len() as u32);
            self.head(&head, &legend_rows)?;
            let mut chart = ChartBuilder::on(&body)
                .margin_right(18)
                .margin_top(6)
                .x_label_area_size(48)
                .y_label_area_size(70)
                .build_cartesian_2d(self.x.0..self.x.1, self.y.0..self.y.1)
                .map_err(refused)?;
            let (x_decimals, y_decimals) = (decimals(self.x), decimals(self.y));
            chart
                .configure_mesh()
                .disable_x_mesh()
                .light_line_style(INK.mix(0.0))
                .bold_line_style(INK.mix(0.12))
                .axis_style(INK.mix(0.6))
                .label_style(text(TEXT_SIZE))
                .axis_desc_style(text(TEXT_SIZE))
                .x_desc(self.x_label)
                .y_desc(self.y_label)
                .x_labels(12)
                .y_labels(6)
                .x_label_formatter(&|value| format!("{value:.x_decimals$}"))
                .y_label_formatter(&|value| format!("{value:.y_decimals$}"))
                .draw()
                .map_err(refused)?;
            content(&mut chart)?;
            root.present().map_err(refused)?;
        }
        Ok(finish(&svg, self.title))
    }

    /// Entries by the line they fit on, with where each begins.
    fn legend_rows(&self) -> Vec<Vec<(i32, &Entry<'_>)>> {
        let mut rows: Vec<Vec<(i32, &Entry<'_>)>> = Vec::new();
        let (first, mut at) = (70, 70);
        for entry in self.legend {
            let needs = 34 + LETTER * entry.text.chars().count() as i32 + 14;
            if rows.is_empty() || at + needs > WIDTH as i32 {
                rows.push(Vec::new());
                at = first;
            }
            if let Some(row) = rows.last_mut() {
                row.push((at, entry));
            }
            at += needs;
        }
        rows
    }

    fn head(&self, head: &Area<'_>, rows: &[Vec<(i32, &Entry<'_>)>]) -> Result<(), ReportError> {
        let title = text(TITLE_SIZE).pos(Pos::new(HPos::Left, VPos::Center));
        head.draw(&Text::new(self.title.to_owned(), (70, 16), title)).map_err(refused)?;
        for (line, row) in rows.iter().enumerate() {
            let y = 42 + 22 * line as i32;
            for (x, entry) in row {
                key(head, (*x, y), entry)?;
            }
        }
        Ok(())
    }
}

fn key(head: &Area<'_>, at: (i32, i32), entry: &Entry<'_>) -> Result<(), ReportError> {
    let (x, y) = at;
    let stroke = |from, to| {
        let line = PathElement::new([(x + from, y), (x + to, y)], entry.colour.stroke_width(2));
        head.draw(&line).map_err(refused)
    };
    match entry.mark {
        Mark::Line => stroke(0, 26)?,
        Mark::Dashed => {
            stroke(0, 7)?;
            stroke(10, 17)?;
            stroke(20, 27)?;
        }
        Mark::Dot => {
            head.draw(&Circle::new((x + 18, y), 6, entry.colour.filled())).map_err(refused)?;
        }
        Mark::Block => {
            let block =
                plotters::element::Rectangle::new([(x + 12, y - 6), (x + 24, y + 6)], entry.colour.filled());
            head.draw(&block).map_err(refused)?;
        }
    }
    let style = text(TEXT_SIZE).pos(Pos::new(HPos::Left, VPos::Center));
    head.draw(&Text::new(entry.text.to_owned(), (x + 34, y), style)).map_err(refused)
}

/// Lettering in the page's text colour.
pub(super) fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// A line in a colour.
pub(super) fn stroke(colour: impl Color, width: u32) -> ShapeStyle {
    colour.stroke_width(width)
}

/// The library's own error as ours.
pub(super) fn refused(error: impl std::fmt::Display) -> ReportError {
    ReportError::Draw(error.to_string())
}

/// Decimals that tell some six ticks of a range apart.
pub(super) fn decimals(range: (f64, f64)) -> usize {
    let step = (range.1 - range.0) / 6.0;
    // Ticks fall on 1, 2 or 5 times a power of ten, so the step rounds down to one.
    if step >= 1.0 { 0 } else { (-step.log10()).ceil().clamp(1.0, 8.0) as usize }
}

/// A unit for latencies up to `largest_ns`: its name and its length in ns.
#[must_use]
pub fn time_unit(largest_ns: f64) -> (&'static str, f64) {
    match largest_ns {
        ns if ns < 5e3 => ("ns", 1.0),
        ns if ns < 2e6 => ("us", 1e3),
        ns if ns < 2e9 => ("ms", 1e6),
        _ => ("s", 1e9),
    }
}

/// Smallest and largest of finite values, spread by a share of their distance; none without any.
pub(super) fn spread(values: impl Iterator<Item = f64>, share: f64) -> Option<(f64, f64)> {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    let room = if high > low { share * (high - low) } else { (0.1 * high.abs()).max(0.5) };
    (low <= high).then_some((low - room, high + room))
}

fn finish(svg: &str, title: &str) -> String {
    let ink = format!("\"#{:02X}{:02X}{:02X}\"", INK.0, INK.1, INK.2);
    let svg = svg.replace(&ink, "\"currentColor\"");
    let title = title.replace('&', "&amp;").replace('<', "&lt;");
    match svg.split_once('>') {
        Some((open, rest)) => format!("{open} role=\"img\"><title>{title}</title>{rest}"),
        None => svg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_have_as_many_decimals_as_they_need() {
        assert_eq!([decimals((0.0, 120.0)), decimals((0.0, 3.0)), decimals((0.0, 0.06))], [0, 1, 2]);
        assert_eq!([time_unit(73_000.0), time_unit(4e6)], [("us", 1e3), ("ms", 1e6)]);
    }

    #[test]
    fn a_range_needs_numbers() {
        assert_eq!(spread([1.0, f64::NAN, 3.0].into_iter(), 0.5), Some((0.0, 4.0)));
        assert_eq!(spread([5.0].into_iter(), 0.5), Some((4.5, 5.5)));
        assert_eq!(spread(std::iter::empty(), 0.5), None);
    }
}

//! A stage of a space as text, for `hanas space show`.
//!
//! Bars are latencies from zero up, the fitted line runs through them, group boundaries and choices
//! stand below. Legible without colour; with `ascii` also without block characters.

use crate::space::htas::StageSpace;

/// How a picture is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Characters a line may have.
    pub columns: usize,
    /// Lines of the bars.
    pub rows: usize,
    /// ASCII only.
    pub ascii: bool,
}

impl Default for Look {
    fn default() -> Self {
        Self { columns: 80, rows: 12, ascii: false }
    }
}

/// Room for the vertical axis: `1234.5 us |`.
const AXIS: usize = 11;

/// One column of the picture: the widths it shows.
struct Column {
    /// Slowest of them, ns.
    m_ns: f64,
    /// The line at the last of them, ns.
    f_ns: f64,
    /// Whether a choice is among them.
    chosen: bool,
    /// The choice, in the one column that names it.
    name: Option<u32>,
    /// Whether a group ends with them.
    ends: bool,
}

/// Latency over width of one stage.
#[must_use]
pub fn picture(stage: &StageSpace, look: Look) -> String {
    let columns = columns(stage, look.columns.saturating_sub(AXIS).max(8));
    let top = columns.iter().map(|column| column.m_ns.max(column.f_ns)).fold(0.0, f64::max);
    if top <= 0.0 {
        return format!("stage {}: no points\n", stage.stage + 1);
    }
    let (unit, unit_ns) = super::canvas::time_unit(top);
    let selection = &stage.selection;
    let mut text = format!(
        "stage {}: {side}x{side}, 3x3 from {} channels; f(x) = {:.3} x + {:.1} {unit}, r2 {:.3}\n",
        stage.stage + 1,
        stage.cins_text(),
        selection.fitted.fit.k_ns / unit_ns,
        selection.fitted.fit.b_ns / unit_ns,
        selection.fitted.r2,
        side = stage.side,
    );
    if selection.fitted.fit.alpha != 1.0 {
        text = text.replace(" x +", &format!(" x^{} +", selection.fitted.fit.alpha));
    }
    let rows = look.rows.max(2);
    for row in (0..rows).rev() {
        let labelled = row == rows - 1 || row == rows / 2 || row == 0;
        let value = top * (row + 1) as f64 / rows as f64 / unit_ns;
        let axis = if labelled { format!("{value:>7.1} {unit:<2}") } else { " ".repeat(10) };
        text.push_str(&axis);
        text.push(if look.ascii { '|' } else { '\u{2502}' });
        let cells: String = columns.iter().map(|column| cell(column, row, top / rows as f64, look)).collect();
        text.push_str(cells.trim_end());
        text.push('\n');
    }
    text.push_str(&below(&columns, look));
    text
}

/// One character of a bar or of the line.
fn cell(column: &Column, row: usize, step_ns: f64, look: Look) -> char {
    let fill = (column.m_ns / step_ns - row as f64).clamp(0.0, 1.0);
    let on_line = (column.f_ns / step_ns).ceil() as usize == row + 1;
    let eighths = [' ', '\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}'];
    match (look.ascii, fill) {
        (true, fill) if fill >= 0.5 => {
            if column.chosen {
                '#'
            } else if on_line {
                '-'
            } else {
                ':'
            }
        }
        (true, _) => {
            if on_line {
                '-'
            } else {
                ' '
            }
        }
        (false, fill) if fill >= 1.0 => {
            if column.chosen {
                '\u{2588}'
            } else if on_line {
                '\u{2550}'
            } else {
                '\u{2592}'
            }
        }
        (false, fill) if on_line && fill < 0.125 => '\u{2500}',
        (false, fill) => eighths[(fill * 8.0) as usize % 8],
    }
}

/// The axis with group boundaries, marks of the choices, their widths, the key.
fn below(columns: &[Column], look: Look) -> String {
    let (line, end, corner, mark) =
        if look.ascii { ('-', '|', '+', '^') } else { ('\u{2500}', '\u{2534}', '\u{2514}', '\u{25b2}') };
    let margin = " ".repeat(AXIS);
    let mut text = format!("{}{corner}", " ".repeat(AXIS - 1));
    text.extend(columns.iter().map(|column| if column.ends { end } else { line }));
    let marks: String = columns.iter().map(|column| if column.name.is_some() { mark } else { ' ' }).collect();
    text.push_str(&format!("\n{margin}{}\n", marks.trim_end()));
    // Two lines of names in turn: neighbours do not touch where choices are one column apart.
    let mut lines = [String::new(), String::new()];
    for (place, column) in columns.iter().enumerate() {
        let Some(width) = column.name else { continue };
        let name = width.to_string();
        let start = (place + 1).saturating_sub(name.len().div_ceil(2));
        let fits = |line: &String| line.is_empty() || line.len() < start;
        let Some(line) = lines.iter_mut().find(|line| fits(line)) else { continue };
        line.push_str(&" ".repeat(start.saturating_sub(line.len())));
        line.push_str(&name);
    }
    for line in lines.iter().filter(|line| !line.is_empty()) {
        text.push_str(&format!("{margin}{line}\n"));
    }
    let key = if look.ascii {
        ": measured  # choice  - fitted line  | end of a group  ^ chosen width"
    } else {
        "\u{2592} measured  \u{2588} choice  \u{2500} fitted line  \u{2534} end of a group  \u{25b2} chosen width"
    };
    text.push_str(&format!("{margin}{key}\n"));
    text
}

/// Widths spread over at most `room` columns: each takes as many columns as fit, or several widths
/// share one, which then shows the choice among them, else the slowest.
fn columns(stage: &StageSpace, room: usize) -> Vec<Column> {
    let selection = &stage.selection;
    let chosen = |width: f64| selection.choices.iter().any(|choice| choice.chosen.x == width);
    let cells = || selection.choices.iter().map(|c| &c.cell).chain(selection.dropped.iter().map(|d| &d.cell));
    let ends =
        |width: f64| cells().any(|cell| cell.0.first().is_some_and(|group| f64::from(group.hi) == width));
    let count = selection.curve.len();
    let share = count.div_ceil(room).max(1);
    let repeat = if share == 1 { (room / count.max(1)).clamp(1, 3) } else { 1 };
    let mut columns = Vec::new();
    for widths in selection.curve.chunks(share) {
        let shown = widths
            .iter()
            .find(|of| chosen(of.x))
            .or_else(|| widths.iter().max_by(|a, b| a.m_ns.total_cmp(&b.m_ns)));
        let Some(shown) = shown else { continue };
        for copy in 0..repeat {
            columns.push(Column {
                m_ns: shown.m_ns,
                f_ns: widths[widths.len() - 1].f_ns,
                chosen: chosen(shown.x),
                // One mark a width: in the middle of its columns.
                name: (chosen(shown.x) && copy == repeat / 2).then_some(shown.x as u32),
                ends: copy == repeat - 1 && widths.iter().any(|of| ends(of.x)),
            });
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::super::page::tests::demo_space;
    use super::*;

    #[test]
    fn a_picture_fits_and_names_every_choice() {
        let space = demo_space();
        for stage in &space.stages {
            for look in [Look::default(), Look { columns: 120, ascii: true, ..Look::default() }] {
                let text = picture(stage, look);
                let body: Vec<&str> = text.lines().skip(1).collect();
                let longest = body.iter().map(|line| line.chars().count()).max();
                assert!(longest.unwrap() <= look.columns, "{text}");
                assert_eq!(look.ascii, text.is_ascii());
                let names: Vec<&str> =
                    body[look.rows + 2..].iter().flat_map(|line| line.split(' ')).collect();
                for choice in &stage.selection.choices {
                    let name = choice.chosen.x.to_string();
                    assert!(names.contains(&name.as_str()), "{name} in\n{text}");
                }
            }
        }
    }
}

//! A space of heads and dims as text, for `hanas graph show`: what [`super::graph_space`] draws.

use super::graph_space::line_text;
use super::terminal::Look;
use crate::space::hgnas::GraphSpace;
use crate::space::partition::point_text;

/// Room for the vertical axis: `1234.5 us |`.
const AXIS: usize = 11;
/// Room for a pair in the map.
const PAIR: usize = 9;

/// Latency against heads times dim, then the map of the cells.
#[must_use]
pub fn picture(space: &GraphSpace, look: Look) -> String {
    scatter(space, look) + &map(space)
}

/// Places of the picture from the weakest mark to the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Empty,
    Line,
    Measured,
    Chosen,
}

impl Place {
    const fn mark(self, ascii: bool) -> char {
        match (self, ascii) {
            (Self::Empty, _) => ' ',
            (Self::Line, false) => '\u{2500}',
            (Self::Line, true) => '-',
            (Self::Measured, false) => '\u{b7}',
            (Self::Measured, true) => '.',
            (Self::Chosen, false) => '\u{25cf}',
            (Self::Chosen, true) => '#',
        }
    }
}

fn scatter(space: &GraphSpace, look: Look) -> String {
    let curve = &space.selection.curve;
    let top = curve.iter().map(|of| of.m_ns.max(of.f_ns)).fold(0.0, f64::max);
    let widest = curve.iter().map(|of| of.x).fold(0.0, f64::max);
    if top <= 0.0 || widest <= 0.0 {
        return format!("{}: no points\n", space.graph);
    }
    let (unit, unit_ns) = super::canvas::time_unit(top);
    let (columns, rows) = (look.columns.saturating_sub(AXIS).max(8), look.rows.max(2));
    let mut places = vec![vec![Place::Empty; columns]; rows];
    let mut put = |x: f64, ns: f64, place: Place| {
        let column = ((x / widest * columns as f64) as usize).min(columns - 1);
        let row = ((ns.max(0.0) / top * rows as f64) as usize).min(rows - 1);
        places[row][column] = places[row][column].max(place);
    };
    let fit = space.selection.fitted.fit;
    for column in 0..columns {
        let x = (column as f64 + 0.5) / columns as f64 * widest;
        put(x, fit.at(x), Place::Line);
    }
    for of in curve {
        put(of.x, of.m_ns, Place::Measured);
    }
    for choice in &space.selection.choices {
        put(choice.chosen.x, choice.chosen.m_ns, Place::Chosen);
    }
    let mut text = format!(
        "{}: latency of a whole graph; f(x) = {}, r2 {:.3}\n",
        space.graph,
        line_text(fit, unit, unit_ns),
        space.selection.fitted.r2,
    );
    for (row, places) in places.iter().enumerate().rev() {
        let labelled = row == rows - 1 || row == rows / 2 || row == 0;
        let value = top * (row + 1) as f64 / rows as f64 / unit_ns;
        text.push_str(&if labelled { format!("{value:>7.1} {unit:<2}") } else { " ".repeat(AXIS - 1) });
        text.push(if look.ascii { '|' } else { '\u{2502}' });
        let line: String = places.iter().map(|place| place.mark(look.ascii)).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let (line, corner) = if look.ascii { ("-", '+') } else { ("\u{2500}", '\u{2514}') };
    let margin = " ".repeat(AXIS);
    text.push_str(&format!("{}{corner}{}\n", " ".repeat(AXIS - 1), line.repeat(columns)));
    let end = format!("{widest}");
    text.push_str(&format!("{margin}0{}{end}\n", " ".repeat(columns.saturating_sub(1 + end.len()))));
    let [measured, chosen, fitted] =
        [Place::Measured, Place::Chosen, Place::Line].map(|place| place.mark(look.ascii));
    text.push_str(&format!(
        "{margin}heads x dim; {measured} measured  {chosen} choice of a cell  {fitted} fitted line\n"
    ));
    text
}

/// The choice of every cell: rows are heads, columns dims.
fn map(space: &GraphSpace) -> String {
    let rows = space.map();
    let mut text = format!("{:>11}", "heads \\ dim");
    for (dim, _) in rows.first().map_or(&[][..], |row| &row.cells) {
        text.push_str(&format!("{:>PAIR$}", dim.to_string()));
    }
    text.push('\n');
    for row in &rows {
        text.push_str(&format!("{:>11}", row.heads.to_string()));
        for (_, choice) in &row.cells {
            let pair = choice.map_or_else(|| "-".to_owned(), |choice| point_text(&choice.chosen.point));
            text.push_str(&format!("{pair:>PAIR$}"));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::page::tests::demo_graph_space;
    use super::*;

    #[test]
    fn a_picture_fits_and_the_map_names_every_choice() {
        let space = demo_graph_space();
        for look in [Look::default(), Look { columns: 100, ascii: true, ..Look::default() }] {
            let text = picture(&space, look);
            assert!(text.lines().skip(1).all(|line| line.chars().count() <= look.columns), "{text}");
            assert_eq!(look.ascii, text.is_ascii());
            let marks = text.chars().filter(|&mark| mark == Place::Chosen.mark(look.ascii)).count();
            assert!(marks > 20, "{marks} choices are seen apart in\n{text}");
            let words: Vec<&str> = text.split_whitespace().collect();
            assert_eq!(space.selection.choices.len(), 42);
            for choice in &space.selection.choices {
                assert!(words.contains(&point_text(&choice.chosen.point).as_str()), "{choice:?}");
            }
        }
    }
}

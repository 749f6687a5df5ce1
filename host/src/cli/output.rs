//! stdout: aligned text for people, JSON with a schema version or CSV for programs.

use std::io::{self, Write};

use serde::Serialize;

/// Version of every JSON document this program prints; raised when a field changes its meaning.
pub(super) const SCHEMA: u32 = 1;

/// How stdout is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum Format {
    /// Aligned columns for people
    #[default]
    Text,
    /// One JSON document
    Json,
    /// Comma-separated values with a header line
    Csv,
}

/// A JSON document under the schema version.
#[derive(Serialize)]
struct Document<'a, T: Serialize> {
    schema: u32,
    #[serde(flatten)]
    body: &'a T,
}

/// Prints a value as JSON; it must serialise as a map.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &Document { schema: SCHEMA, body: value })?;
    writeln!(out)?;
    Ok(())
}

/// Prints text as it is.
pub(super) fn text(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Rows under a header.
#[derive(Debug, Default)]
pub(super) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub(super) fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|&cell| cell.to_owned()).collect(), rows: Vec::new() }
    }

    /// Appends a row of as many cells as there are columns.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Aligned columns: numbers to the right, the rest to the left.
    pub(super) fn to_text(&self) -> String {
        let all = || std::iter::once(&self.header).chain(&self.rows);
        let widths: Vec<usize> = (0..self.header.len())
            .map(|c| all().map(|row| row.get(c).map_or(0, |cell| cell.chars().count())).max().unwrap_or(0))
            .collect();
        let is_number = |c: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(c)).filter(|cell| !cell.is_empty());
            cells.clone().next().is_some()
                && cells.into_iter().all(|cell| {
                    cell.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first))
                })
        };
        let right: Vec<bool> = (0..self.header.len()).map(is_number).collect();
        let mut text = String::new();
        for row in all() {
            let cells = row.iter().enumerate().map(|(c, cell)| {
                let width = widths[c];
                if right[c] { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    /// Comma-separated values; cells with commas or quotes are quoted.
    pub(super) fn to_csv(&self) -> String {
        let quoted = |cell: &String| {
            if cell.contains([',', '"', '\n']) {
                format!("\"{}\"", cell.replace('"', "\"\""))
            } else {
                cell.clone()
            }
        };
        let line = |row: &Vec<String>| row.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n";
        std::iter::once(&self.header).chain(&self.rows).map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_words_left() {
        let mut table = Table::new(&["name", "ms"]);
        table.row(vec!["base".into(), "12.5".into()]);
        table.row(vec!["a".into(), "9".into()]);
        assert_eq!(table.to_text(), "name    ms\nbase  12.5\na        9\n");
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let mut table = Table::new(&["a", "b"]);
        table.row(vec!["x,y".into(), "say \"hi\"".into()]);
        assert_eq!(table.to_csv(), "a,b\n\"x,y\",\"say \"\"hi\"\"\"\n");
    }
}

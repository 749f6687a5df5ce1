//! Curves over epochs or rounds: loss, accuracy, latency, temperature.

use plotters::element::Circle;
use plotters::series::LineSeries;
use plotters::style::Color;
use serde::{Deserialize, Serialize};

use super::ReportError;
use super::canvas::{Entry, Frame, Mark, SERIES, refused, spread, stroke};

/// One curve.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points (x, y); those that are no numbers are gaps.
    pub points: Vec<(f64, f64)>,
}

/// Curves on common axes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LineChart {
    /// What they show.
    pub title: String,
    /// Label of the horizontal axis, with its unit.
    pub x_label: String,
    /// Label of the vertical axis, with its unit.
    pub y_label: String,
    /// The curves.
    pub series: Vec<Series>,
}

impl LineChart {
    /// The picture as SVG.
    ///
    /// # Errors
    /// [`ReportError`] where no curve has a point.
    pub fn svg(&self) -> Result<String, ReportError> {
        let nothing = || ReportError::Nothing { picture: self.title.clone() };
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        let finite = || points().filter(|(x, y)| x.is_finite() && y.is_finite());
        let x = spread(finite().map(|point| point.0), 0.01).ok_or_else(nothing)?;
        let y = spread(finite().map(|point| point.1), 0.06).ok_or_else(nothing)?;
        // Below zero only where a curve goes there.
        let y = if y.0 < 0.0 && finite().all(|point| point.1 >= 0.0) { (0.0, y.1) } else { y };
        let colour = |index: usize| SERIES[index % SERIES.len()];
        let entry = |(index, series): (usize, &'_ Series)| (index, series.name.clone());
        let names: Vec<(usize, String)> = self.series.iter().enumerate().map(entry).collect();
        let legend: Vec<Entry<'_>> = names
            .iter()
            .map(|(index, name)| Entry { mark: Mark::Line, colour: colour(*index).to_rgba(), text: name })
            .collect();
        let frame = Frame {
            title: &self.title,
            x_label: &self.x_label,
            y_label: &self.y_label,
            x,
            y,
            legend: &legend,
        };
        frame.draw(|chart| {
            for (index, series) in self.series.iter().enumerate() {
                for run in series.points.split(|(x, y)| !(x.is_finite() && y.is_finite())) {
                    let line = LineSeries::new(run.iter().copied(), stroke(colour(index), 2));
                    chart.draw_series(line).map_err(refused)?;
                    if series.points.len() <= 60 {
                        let dots = run.iter().map(|at| Circle::new(*at, 3, colour(index).filled()));
                        chart.draw_series(dots).map_err(refused)?;
                    }
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_left_open_and_nothing_is_no_picture() {
        let points = vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0), (3.0, 2.0)];
        let series = vec![Series { name: "loss".to_owned(), points }];
        let mut chart = LineChart { title: "a < b".to_owned(), series, ..LineChart::default() };
        let svg = chart.svg().unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("<title>a &lt; b</title>"));
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.contains("currentColor") && !svg.contains("#010203"));
        chart.series[0].points.clear();
        assert!(matches!(chart.svg(), Err(ReportError::Nothing { .. })));
    }
}

//! Nets compared: accuracy against measured latency.

use plotters::element::{Circle, PathElement, Text};
use plotters::series::DashedLineSeries;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, RGBColor};
use serde::{Deserialize, Serialize};

use super::ReportError;
use super::canvas::{
    Chart, Entry, Frame, HEIGHT, INK, LETTER, Mark, SERIES, TEXT_SIZE, WIDTH, refused, spread, stroke, text,
    time_unit,
};

/// One net with what is known of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Net {
    /// Its name: `base`, `seed 1`.
    pub name: String,
    /// How it was found; nets of one strategy share a colour: `htas`, `uniform`.
    pub strategy: String,
    /// Share of test images or nodes it gets right, 0 to 1.
    pub accuracy: Option<f64>,
    /// Latency measured on the device, ns.
    pub latency_ns: Option<f64>,
    /// Its standard error, ns.
    pub latency_se_ns: f64,
    /// Latency the search believed in, ns.
    pub predicted_ns: Option<f64>,
    /// The limit it was searched under, ns.
    pub budget_ns: Option<f64>,
    /// Multiply-adds of one image; none of graph nets.
    pub macs: Option<u64>,
    /// Parameters.
    pub params: u64,
    /// Its widths, or its layers, in a line.
    pub widths: String,
}

/// Accuracy against measured latency of all nets that have both; limits as dashed lines.
///
/// # Errors
/// [`ReportError`] where no net has both.
pub fn net_chart(nets: &[Net]) -> Result<String, ReportError> {
    let title = "Nets: accuracy against measured latency";
    let nothing = || ReportError::Nothing { picture: title.to_owned() };
    let known: Vec<(&Net, f64, f64)> =
        nets.iter().filter_map(|net| Some((net, net.latency_ns?, net.accuracy?))).collect();
    let slowest = known.iter().map(|(_, ns, _)| *ns).fold(0.0, f64::max);
    let (unit, unit_ns) = time_unit(slowest);
    let mut limits: Vec<f64> =
        known.iter().filter_map(|(net, ..)| net.budget_ns).map(|ns| ns / unit_ns).collect();
    limits.sort_by(f64::total_cmp);
    limits.dedup();
    let spots: Vec<(f64, f64)> =
        known.iter().map(|(_, ns, accuracy)| (ns / unit_ns, 100.0 * accuracy)).collect();
    let x = spread(spots.iter().map(|at| at.0).chain(limits.iter().copied()), 0.18).ok_or_else(nothing)?;
    let x = (x.0.max(0.0), x.1);
    let y = spread(spots.iter().map(|at| at.1), 0.15).ok_or_else(nothing)?;
    let mut strategies: Vec<&str> = Vec::new();
    for (net, ..) in &known {
        if !strategies.contains(&net.strategy.as_str()) {
            strategies.push(&net.strategy);
        }
    }
    let place = |net: &Net| strategies.iter().position(|name| *name == net.strategy).unwrap_or(0);
    let colour = |net: &Net| -> RGBColor { SERIES[place(net) % SERIES.len()] };
    let mut legend: Vec<Entry<'_>> = strategies
        .iter()
        .enumerate()
        .map(|(index, name)| Entry {
            mark: Mark::Dot,
            colour: SERIES[index % SERIES.len()].to_rgba(),
            text: name,
        })
        .collect();
    if !limits.is_empty() {
        legend.push(Entry { mark: Mark::Dashed, colour: INK.mix(0.5), text: "latency limit" });
    }
    let frame = Frame {
        title,
        x_label: &format!("measured latency ({unit})"),
        y_label: "test accuracy (%)",
        x,
        y,
        legend: &legend,
    };
    frame.draw(|chart| {
        for limit in &limits {
            let line = [(*limit, y.0), (*limit, y.1)];
            let dashes = DashedLineSeries::new(line, 6, 5, stroke(INK.mix(0.5), 1));
            chart.draw_series(dashes).map_err(refused)?;
        }
        for ((net, ..), at) in known.iter().zip(&spots) {
            let reach = net.latency_se_ns / unit_ns;
            let bar = [(at.0 - reach, at.1), (at.0 + reach, at.1)];
            chart.draw_series([PathElement::new(bar, stroke(colour(net), 2))]).map_err(refused)?;
            chart.draw_series([Circle::new(*at, 6, colour(net).filled())]).map_err(refused)?;
        }
        let names: Vec<(&str, f64)> =
            known.iter().map(|(net, ..)| (net.name.as_str(), net.latency_se_ns / unit_ns)).collect();
        label(chart, &names, &spots, (x, y))
    })
}

/// Room for names, in pixels: what is left of the picture beside axes and head, roughly.
const ROOM: (f64, f64) = (WIDTH as f64 - 88.0, HEIGHT as f64 - 108.0);

/// Half a dot's size, in pixels.
const DOT: f64 = 7.0;

/// A box in pixels: left, top, right, bottom.
type Box = [f64; 4];

/// Writes names beside their dots; where one had to move away, a thin line leads to it.
fn label(
    chart: &mut Chart<'_, '_>,
    names: &[(&str, f64)],
    spots: &[(f64, f64)],
    (x, y): ((f64, f64), (f64, f64)),
) -> Result<(), ReportError> {
    let per_pixel = ((x.1 - x.0) / ROOM.0, (y.1 - y.0) / ROOM.1);
    let centres: Vec<(f64, f64)> =
        spots.iter().map(|at| ((at.0 - x.0) / per_pixel.0, (y.1 - at.1) / per_pixel.1)).collect();
    let back = |at: (f64, f64)| (x.0 + at.0 * per_pixel.0, y.1 - at.1 * per_pixel.1);
    let reaches: Vec<f64> = names.iter().map(|(_, reach)| (reach / per_pixel.0).max(DOT)).collect();
    let dots = centres.iter().zip(&reaches);
    let mut taken: Vec<Box> =
        dots.map(|(at, reach)| [at.0 - reach, at.1 - DOT, at.0 + reach, at.1 + DOT]).collect();
    for (((name, _), centre), reach) in names.iter().zip(&centres).zip(&reaches) {
        let spot = free_spot(name, *centre, *reach, &taken);
        taken.push(spot);
        let middle = f64::midpoint(spot[1], spot[3]);
        if (middle - centre.1).abs() > DOT {
            let end = (centre.0.clamp(spot[0], spot[2]), if middle < centre.1 { spot[3] } else { spot[1] });
            let leader = PathElement::new([back(*centre), back(end)], stroke(INK.mix(0.5), 1));
            chart.draw_series([leader]).map_err(refused)?;
        }
        let style = text(TEXT_SIZE).pos(Pos::new(HPos::Left, VPos::Center));
        chart
            .draw_series([Text::new((*name).to_owned(), back((spot[0], middle)), style)])
            .map_err(refused)?;
    }
    Ok(())
}

/// The first place around a dot where its name touches nothing; right of it where there is none.
fn free_spot(name: &str, centre: (f64, f64), reach: f64, taken: &[Box]) -> Box {
    let width = f64::from(LETTER * name.chars().count() as i32);
    let beside = [centre.0 + reach + 5.0, centre.0 - reach - 5.0 - width];
    let middle = centre.0 - width / 2.0;
    let around = [middle, centre.0 + 2.0, centre.0 - 2.0 - width];
    let place = |x: f64, dy: f64| [x, centre.1 + dy - 9.0, x + width, centre.1 + dy + 9.0];
    let rows = [-20.0, 20.0, -38.0, 38.0, -56.0, 56.0];
    let tries = beside.iter().map(|x| place(*x, 0.0));
    let mut tries = tries.chain(rows.iter().flat_map(|dy| around.map(|x| place(x, *dy))));
    let inside = |spot: &Box| spot[0] >= 0.0 && spot[2] <= ROOM.0 && spot[1] >= 0.0 && spot[3] <= ROOM.1;
    let touches = |a: &Box, b: &Box| a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
    tries
        .find(|spot| inside(spot) && !taken.iter().any(|other| touches(spot, other)))
        .unwrap_or_else(|| place(beside[0], 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_off_each_other() {
        let mut taken: Vec<Box> = Vec::new();
        for _ in 0..5 {
            let spot = free_spot("resnet20 seed 1", (300.0, 120.0), DOT, &taken);
            let touches = |b: &Box| spot[0] < b[2] && b[0] < spot[2] && spot[1] < b[3] && b[1] < spot[3];
            assert!(!taken.iter().any(touches));
            taken.push(spot);
        }
        let edge = free_spot("resnet20 seed 1", (ROOM.0 - 5.0, 120.0), DOT, &[]);
        assert!(edge[2] <= ROOM.0, "a name at the right edge goes to the left");
    }

    #[test]
    fn nets_without_a_measurement_are_in_no_picture() {
        let net = Net { accuracy: Some(0.9), predicted_ns: Some(1e6), ..Net::default() };
        assert!(matches!(net_chart(&[net]), Err(ReportError::Nothing { .. })));
    }
}

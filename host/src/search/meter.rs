//! How a net's cost lies to the budget. Under a latency gate a prediction is scaled by what measuring
//! has taught so far (measured over predicted, of the last net measured).

use std::collections::HashMap;
use std::fmt;

use hanas_models::cost::macs;
use hanas_models::layer::{Layer, LayerType};
use hanas_models::resnet::{ConvNet, Family};

use super::SearchError;
use super::choices::Choices;
use super::config::Gate;
use super::timer::NetTimer;

/// A cost with its unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// Latency, in nanoseconds.
    Nanos(f64),
    /// Multiply-adds.
    Macs(f64),
}

impl fmt::Display for Amount {
    /// `3.214 ms`, `20.4 M multiply-adds`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nanos(ns) => write!(f, "{:.3} ms", ns / 1e6),
            Self::Macs(macs) => write!(f, "{:.4} M multiply-adds", macs / 1e6),
        }
    }
}

/// Where a cost lies to the target and its tolerance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Below the target by more than the tolerance.
    Below,
    /// Within the tolerance.
    Within,
    /// Above the target by more than the tolerance.
    Above,
}

/// A gate with its target, and what measuring has taught.
#[derive(Debug, Clone)]
pub struct Meter {
    gate: Gate,
    target: f64,
    tolerance: f64,
    /// Measured over predicted latency of the last net measured.
    ratio: f64,
    measured_ns: HashMap<ConvNet, f64>,
}

impl Meter {
    /// A meter for a gate; ratios are relative to the family's base net.
    ///
    /// # Errors
    /// [`SearchError::Spec`] where the base net does not fit together.
    pub fn new(gate: Gate, tolerance: f64, family: &Family) -> Result<Self, SearchError> {
        let target = match gate {
            Gate::Flops { ratio } => ratio * macs(&family.base().net()?)? as f64,
            Gate::Latency { budget_ns } => budget_ns,
        };
        Ok(Self { gate, target, tolerance, ratio: 1.0, measured_ns: HashMap::new() })
    }

    /// The target, in nanoseconds or multiply-adds.
    #[must_use]
    pub const fn target(&self) -> f64 {
        self.target
    }

    /// Measured over predicted latency of the last net measured, 1 before.
    #[must_use]
    pub const fn ratio(&self) -> f64 {
        self.ratio
    }

    /// Goes on from the ratio of a checkpoint.
    pub const fn set_ratio(&mut self, ratio: f64) {
        self.ratio = ratio;
    }

    /// A cost of this gate with its unit.
    #[must_use]
    pub const fn amount(&self, cost: f64) -> Amount {
        match self.gate {
            Gate::Flops { .. } => Amount::Macs(cost),
            Gate::Latency { .. } => Amount::Nanos(cost),
        }
    }

    /// Where a cost lies to the target.
    #[must_use]
    pub fn side(&self, cost: f64) -> Side {
        let margin = self.tolerance * self.target;
        if cost < self.target - margin {
            Side::Below
        } else if cost > self.target + margin {
            Side::Above
        } else {
            Side::Within
        }
    }

    /// A net's cost without measuring: multiply-adds, or the scaled prediction.
    ///
    /// # Errors
    /// [`SearchError`] where the timer fails or the net does not fit together.
    pub fn estimate(&self, net: &ConvNet, timer: &dyn NetTimer) -> Result<f64, SearchError> {
        match self.gate {
            Gate::Flops { .. } => Ok(macs(&net.net()?)? as f64),
            Gate::Latency { .. } => Ok(self.ratio * timer.predict_ns(net).map_err(SearchError::Timer)?),
        }
    }

    /// A layer's share of its net's cost without measuring.
    ///
    /// # Errors
    /// As [`Meter::estimate`].
    pub fn layer_cost(
        &self,
        kind: LayerType,
        layer: &Layer,
        timer: &dyn NetTimer,
    ) -> Result<f64, SearchError> {
        match self.gate {
            Gate::Flops { .. } => Ok(macs(&layer.net())? as f64),
            Gate::Latency { .. } => Ok(self.ratio * timer.layer_ns(kind, layer).map_err(SearchError::Timer)?),
        }
    }

    /// A net's cost: multiply-adds, or the measured latency, which also sets the ratio. A net is
    /// measured once.
    ///
    /// # Errors
    /// As [`Meter::estimate`].
    pub fn measure(&mut self, net: &ConvNet, timer: &mut dyn NetTimer) -> Result<f64, SearchError> {
        if matches!(self.gate, Gate::Flops { .. }) {
            return self.estimate(net, timer);
        }
        let predicted = timer.predict_ns(net).map_err(SearchError::Timer)?;
        let measured = match self.measured_ns.get(net) {
            Some(&measured) => measured,
            None => timer.measure_ns(net).map_err(SearchError::Timer)?,
        };
        self.measured_ns.insert(net.clone(), measured);
        if predicted > 0.0 && measured > 0.0 {
            self.ratio = measured / predicted;
        }
        Ok(measured)
    }

    /// The measured latency of a net, if it was measured.
    #[must_use]
    pub fn measured_ns(&self, net: &ConvNet) -> Option<f64> {
        self.measured_ns.get(net).copied()
    }

    /// Refuses a budget that no net of the space can meet or that every net stays below, before any
    /// time is spent on a search.
    ///
    /// # Errors
    /// [`SearchError::BudgetTooSmall`], [`SearchError::BudgetTooLarge`], or as [`Meter::estimate`].
    pub fn check_bounds(&mut self, choices: &Choices, timer: &mut dyn NetTimer) -> Result<(), SearchError> {
        let budget = self.amount(self.target);
        let largest = self.measure(&choices.net(&choices.largest()), timer)?;
        if self.side(largest) == Side::Below {
            return Err(SearchError::BudgetTooLarge { budget, largest: self.amount(largest) });
        }
        let smallest = self.measure(&choices.net(&choices.smallest()), timer)?;
        if self.side(smallest) == Side::Above {
            return Err(SearchError::BudgetTooSmall { budget, smallest: self.amount(smallest) });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::choices::tests::tiny_choices;
    use super::super::timer::FitTimer;
    use super::super::timer::tests::fits;
    use super::*;

    fn meter(budget_ns: f64) -> (Meter, Choices, FitTimer) {
        let choices = tiny_choices(1);
        let timer = FitTimer::new(fits(&choices.family), 1.5);
        let meter = Meter::new(Gate::Latency { budget_ns }, 0.05, &choices.family).unwrap();
        (meter, choices, timer)
    }

    #[test]
    fn sides_leave_the_tolerance_alone() {
        let (meter, ..) = meter(1000.0);
        assert_eq!(meter.side(949.0), Side::Below);
        assert_eq!(meter.side(951.0), Side::Within);
        assert_eq!(meter.side(1049.0), Side::Within);
        assert_eq!(meter.side(1051.0), Side::Above);
    }

    #[test]
    fn measuring_teaches_the_estimate_and_happens_once() {
        let (mut meter, choices, mut timer) = meter(1000.0);
        let net = choices.net(&choices.largest());
        let before = meter.estimate(&net, &timer).unwrap();
        let measured = meter.measure(&net, &mut timer).unwrap();
        assert!((measured / before - 1.5).abs() < 1e-12);
        assert!((meter.estimate(&net, &timer).unwrap() / measured - 1.0).abs() < 1e-12);
        meter.measure(&net, &mut timer).unwrap();
        assert_eq!(timer.measured, 1);
    }

    #[test]
    fn impossible_budgets_name_the_bound() {
        let (mut small, choices, mut timer) = meter(1000.0);
        let error = small.check_bounds(&choices, &mut timer).unwrap_err();
        assert!(matches!(error, SearchError::BudgetTooSmall { .. }), "{error}");
        assert!(error.to_string().contains("0.001 ms"), "{error}");
        let (mut large, ..) = meter(1e9);
        let error = large.check_bounds(&choices, &mut timer).unwrap_err();
        assert!(matches!(error, SearchError::BudgetTooLarge { .. }), "{error}");
    }

    #[test]
    fn a_flops_target_is_relative_to_the_base() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let meter = Meter::new(Gate::Flops { ratio: 0.5 }, 0.05, &family).unwrap();
        assert!((meter.target() / 1e6 - 20.405).abs() < 0.01, "{}", meter.amount(meter.target()));
    }
}

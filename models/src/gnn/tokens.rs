//! What a layer's tokens can say, in the search space's order (ALGORITHM 2.1), and their names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::GnnError;

/// Declares one token: its values in the search space's order, their names, and both directions of text.
macro_rules! token {
    ($(#[$doc:meta])* $token:ident, $what:literal { $($(#[$of:meta])* $value:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $token {
            $($(#[$of])* $value,)+
        }

        impl $token {
            /// Every value, in the search space's order.
            pub const ALL: &[Self] = &[$(Self::$value,)+];

            /// The value's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $name,)+
                }
            }
        }

        impl fmt::Display for $token {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $token {
            type Err = GnnError;

            fn from_str(text: &str) -> Result<Self, GnnError> {
                Self::ALL.iter().copied().find(|value| value.name() == text).ok_or_else(|| {
                    let names: Vec<&str> = Self::ALL.iter().map(|value| value.name()).collect();
                    GnnError::Token { what: $what, given: text.to_owned(), known: names.join(", ") }
                })
            }
        }
    };
}

token! {
    /// How a message is weighted; x_i is the edge's target and x_j its source, after the projection.
    Attention, "attention" {
        /// softmax(leaky(<wl, x_i> + <wr, x_j>)).
        Gat = "gat",
        /// D^-1/2 A D^-1/2, with self-loops.
        Gcn = "gcn",
        /// softmax(<x_i * wl * x_j, wr>).
        Cos = "cos",
        /// 1.
        Const = "const",
        /// softmax of gat's weight of the edge and of its reverse, added.
        GatSym = "gat_sym",
        /// softmax(tanh(<wl, x_j> + <wr, x_j>)).
        Linear = "linear",
        /// softmax(<v, tanh(x_i * wl + x_j * wr)>), v shared by the heads.
        GeneralizedLinear = "generalized_linear",
    }
}

impl Attention {
    /// Whether weights are normalised by a softmax over edges.
    #[must_use]
    pub const fn is_softmax(self) -> bool {
        !matches!(self, Self::Gcn | Self::Const)
    }
}

token! {
    /// How a node's incoming messages become one.
    Aggregator, "aggregator" {
        /// Their sum.
        Sum = "sum",
        /// Their mean, after two pool Linears.
        Mean = "mean",
        /// Their maximum per value, after two pool Linears.
        Max = "max",
        /// Their sum, after two pool Linears.
        Mlp = "mlp",
    }
}

impl Aggregator {
    /// Whether messages pass Linear(d, 128) and Linear(128, d) first.
    #[must_use]
    pub const fn has_pool(self) -> bool {
        !matches!(self, Self::Sum)
    }
}

token! {
    /// What a layer's output passes last.
    Activation, "activation" {
        /// 1 / (1 + exp(-x)).
        Sigmoid = "sigmoid",
        /// tanh(x).
        Tanh = "tanh",
        /// max(x, 0).
        Relu = "relu",
        /// x.
        Linear = "linear",
        /// ln(1 + exp(x)).
        Softplus = "softplus",
        /// x, or 0.01 x below 0.
        LeakyRelu = "leaky_relu",
        /// min(max(x, 0), 6).
        Relu6 = "relu6",
        /// x, or exp(x) - 1 below 0.
        Elu = "elu",
    }
}

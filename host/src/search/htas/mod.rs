//! HTAS: a differentiable search over widths and depths (ALGORITHM 1.3 to 1.5).
//!
//! In reading order:
//!
//! 1. [`sample`]: the logits, and what one step draws from them;
//! 2. [`cwi`]: channel-wise interpolation, as a matrix over channels and as the average that it is;
//! 3. [`conv`]: a convolution of all its widths at once;
//! 4. [`supernet`]: the net of all nets;
//! 5. [`cost`]: expected latency or multiply-adds, differentiable in the logits;
//! 6. [`step`]: one weight step, one architecture step;
//! 7. [`search`]: the epochs, the gate, the checkpoint, the derived net;
//! 8. [`mod@bench`]: what a step costs.

pub mod bench;
pub mod conv;
pub mod cost;
pub mod cwi;
pub mod sample;
pub mod search;
pub mod step;
pub mod supernet;

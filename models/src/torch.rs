//! Lowering to tch.

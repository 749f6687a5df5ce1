//! What a net is, what it costs, and how it becomes ONNX or a tch module.
//!
//! In reading order:
//!
//! 1. [`spec`]: a net as a graph of layers; the single truth that everything else lowers;
//! 2. [`resnet`]: the CIFAR ResNet family, its widths and depths (ALGORITHM 1.1, 1.2);
//! 3. [`layer`]: one layer as a net of its own, the unit that a device is profiled with;
//! 4. [`gnn`]: the graph attention nets, five tokens a layer (ALGORITHM 2.1, 2.2);
//! 5. [`cost`]: multiply-adds and parameters;
//! 6. [`weights`]: named tensors, between training and export;
//! 7. [`onnx`]: lowering to ONNX, with trained weights or with seeded ones of a few bytes;
//! 8. [`model_file`]: a user's own ONNX file made ready to measure;
//! 9. [`torch`] (feature `torch`): lowering to tch.

pub mod cost;
pub mod gnn;
pub mod layer;
pub mod model_file;
pub mod onnx;
pub mod resnet;
pub mod spec;
#[cfg(feature = "torch")]
pub mod torch;
pub mod weights;

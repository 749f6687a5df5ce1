//! A small task of a user's own: its TOML file and its data in CIFAR's binary format.

use std::path::PathBuf;

use crate::host::Host;

/// The task's name.
pub const NAME: &str = "dots";

/// Training images.
pub const TRAIN: usize = 64;

/// Two stages, 8x8 grey images, two classes: dark and light.
const TASK: &str = r#"
name = "dots"

[net]
size = 8
channels = 1
classes = 2
stem = 4
stages = [
    { width = 4, blocks = 1, stride = 1 },
    { width = 8, blocks = 2, stride = 2 },
]

[data]
kind = "cifar-binary"
path = "dots"
"#;

/// Writes the task and its images into a host's folder; the file to give as `--task`.
///
/// # Panics
/// Where they cannot be written.
#[must_use]
pub fn task(host: &Host) -> PathBuf {
    std::fs::create_dir_all(host.path("dots")).expect("a temporary folder can be made");
    let _ = host.file("dots/train.bin", images(TRAIN));
    let _ = host.file("dots/test.bin", images(TRAIN / 2));
    host.file("dots.toml", TASK)
}

/// Images whose class is their brightness, with noise.
fn images(count: usize) -> Vec<u8> {
    let mut state = count as u32;
    let mut noise = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 / 4
    };
    let record = |image: usize| {
        let label = (image % 2) as u8;
        let pixels: Vec<u8> = (0..64).map(|_| 60 + 70 * label + noise()).collect();
        [&[label][..], &pixels].concat()
    };
    (0..count).flat_map(record).collect()
}

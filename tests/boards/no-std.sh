#!/usr/bin/env bash
# What a chip carries must build where there is no standard library: the wire, the device core, the chip
# runtime. Skips with one line where no such target can be had.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo=${CARGO:-cargo}
target=thumbv7em-none-eabihf
crates=(-p hanas-proto -p hanas-device-core -p hanas-chip-runtime)
sysroot=$(rustc --print sysroot)
if [ ! -d "$sysroot/lib/rustlib/$target" ] && command -v rustup >/dev/null; then
    rustup target add "$target" >/dev/null 2>&1 || true
fi
if [ -d "$sysroot/lib/rustlib/$target" ]; then
    "$cargo" check --release --locked "${crates[@]}" --target "$target"
elif [ -d "$sysroot/lib/rustlib/src/rust/library/core" ]; then
    RUSTC_BOOTSTRAP=1 "$cargo" check --release --locked "${crates[@]}" --target "$target" -Zbuild-std=core
else
    echo "no_std: not checked, rustup cannot add $target and there is no rust-src to build core from"
fi

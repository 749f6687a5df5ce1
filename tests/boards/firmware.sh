#!/usr/bin/env bash
# Builds the Cortex-M4 firmware; ends with 75 and one line where the target cannot be had.
set -euo pipefail
cd "$(dirname "$0")/../../device-agent/firmware"
cargo=${CARGO:-cargo}
# These would take the place of the linker's script.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
target=thumbv7em-none-eabihf
sysroot=$(rustc --print sysroot)
if [ ! -d "$sysroot/lib/rustlib/$target" ] && command -v rustup >/dev/null; then
    rustup target add "$target" >/dev/null 2>&1 || true
fi
if [ -d "$sysroot/lib/rustlib/$target" ]; then
    "$cargo" build --release --locked
elif [ -d "$sysroot/lib/rustlib/src/rust/library/core" ]; then
    RUSTC_BOOTSTRAP=1 "$cargo" build --release --locked -Zbuild-std=core
else
    echo "firmware: not built, rustup cannot add $target and there is no rust-src to build core from"
    exit 75
fi
echo "firmware: device-agent/firmware/target/$target/release/hanas-firmware"

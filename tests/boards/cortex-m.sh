#!/usr/bin/env bash
# The firmware on an emulated Cortex-M4, behind a debug probe and a serial line. Skips with one line where
# the emulator or the target cannot be had.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo=${CARGO:-cargo}
if ! command -v qemu-system-arm >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        { apt-get update && apt-get install -y qemu-system-arm; } </dev/null >/dev/null 2>&1 || true
    fi
fi
if ! command -v qemu-system-arm >/dev/null; then
    echo "cortex-m: skipped, no qemu-system-arm (Debian: apt-get install qemu-system-arm)"
    exit 77
fi
code=0
tests/boards/firmware.sh || code=$?
if [ "$code" = 75 ]; then
    echo "cortex-m: skipped, no firmware"
    exit 77
elif [ "$code" != 0 ]; then
    exit "$code"
fi
tests/boards/no-std.sh
# Beside the usual build: debug probes change the features of half its dependencies.
"$cargo" build --release --locked -p hanas --no-default-features --features probe --bin hanas \
    --target-dir target/boards
# One after another: each machine keeps a processor busy.
"$cargo" test --release --locked --workspace --test cortex_m -- --ignored --test-threads 1

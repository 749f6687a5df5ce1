#!/usr/bin/env bash
# The agent built for another processor (aarch64 or armv7), under an emulator: the whole protocol over TCP,
# unix socket, serial line and streams, limits and the worker's death, lost links, planted profiles, and
# numbers like this machine's. Ends with 77 where it cannot be built or emulated here.
set -euo pipefail
cd "$(dirname "$0")/../.."
arch=${1:-}
case $arch in
    aarch64) emulator=qemu-aarch64-static ;;
    armv7) emulator=qemu-arm-static ;;
    *) echo "usage: tests/boards/emulated.sh aarch64|armv7" >&2; exit 2 ;;
esac
if ! command -v "$emulator" >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        qemu-user-static; } >/dev/null 2>&1 </dev/null || true
fi
command -v "$emulator" >/dev/null || { echo "$arch: no $emulator; install qemu-user-static" >&2; exit 77; }
device-agent/cross.sh "$arch"
# One test at a time: an emulated agent is slow, and some tests wait for it.
HANAS_TEST_AGENT="$emulator $PWD/target/boards/hanas-agent-$arch" \
    cargo test --release --locked --workspace --test dialogue --test worker --test resume \
    --test planted --test emulated -- --test-threads 1 --nocapture

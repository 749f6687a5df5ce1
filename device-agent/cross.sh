#!/usr/bin/env bash
# Builds the agent for another processor: `device-agent/cross.sh aarch64` (or armv7) leaves a program that
# stands alone in target/boards/hanas-agent-ARCH. It installs what it needs where it may (rustup's standard
# library, else Debian's Rust; Debian's cross compiler, as root) and ends with 77 where that is not to be had.
# A target folder of its own keeps the workspace's build as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
arch=${1:-}
case $arch in
    aarch64) target=aarch64-unknown-linux-gnu gcc=aarch64-linux-gnu-gcc debian=arm64
        packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross" ;;
    armv7) target=armv7-unknown-linux-gnueabihf gcc=arm-linux-gnueabihf-gcc debian=armhf
        packages="gcc-arm-linux-gnueabihf libc6-dev-armhf-cross" ;;
    *) echo "usage: device-agent/cross.sh aarch64|armv7" >&2; exit 2 ;;
esac
missing() { echo "agent for $arch: $1" >&2; exit 77; }

# Debian's packages, where there are any and this is root.
install() {
    command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || return 1
    echo "agent for $arch: installing $*" >&2
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } \
        >/dev/null 2>&1 </dev/null
}

command -v "$gcc" >/dev/null || install $packages \
    || missing "no $gcc; install a cross compiler with its C library (Debian: apt-get install $packages)"

# Rust with a standard library for the target: rustup's, else Debian's own toolchain beside it.
cargo=(cargo)
has_rustup_target() { rustup target list --installed 2>/dev/null | grep -qx "$target"; }
if ! has_rustup_target && ! { command -v rustup >/dev/null && rustup target add "$target" >&2 && has_rustup_target; }; then
    library=/usr/lib/rustlib/$target/lib
    if [ ! -d "$library" ] && command -v dpkg >/dev/null && [ "$(id -u)" = 0 ]; then
        dpkg --add-architecture "$debian"
        install rustc-web cargo-web "libstd-rust-web-dev:$debian" || true
    fi
    [ -d "$library" ] || missing "no Rust standard library for $target; rustup target add $target"
    cargo=(env RUSTC=/usr/bin/rustc /usr/bin/cargo)
fi

variable=$(echo "$target" | tr a-z- A-Z_)
export "CARGO_TARGET_${variable}_LINKER=$gcc" "CC_${target//-/_}=$gcc"
# Static: runs on any board, whatever C library it has. These would take the place of the flag below.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
export "CARGO_TARGET_${variable}_RUSTFLAGS=-C target-feature=+crt-static"
export CARGO_PROFILE_RELEASE_STRIP=symbols
"${cargo[@]}" build --release --locked -p hanas-agent --bin hanas-agent \
    --target "$target" --target-dir target/boards
cp "target/boards/$target/release/hanas-agent" "target/boards/hanas-agent-$arch"
echo "target/boards/hanas-agent-$arch"

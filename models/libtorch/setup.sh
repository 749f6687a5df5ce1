#!/usr/bin/env bash
# Puts the CPU part of libtorch into third_party/libtorch (or $1), from three PyPI wheels.
# Idempotent: a second run sees build-version and downloads nothing. Why these three wheels and why
# an empty libtorch.so: docs/src/decisions/0003-libtorch.md.
set -euo pipefail
dest=${1:-third_party/libtorch}
torch=2.13.0 cupti=13.0.85 cudart=13.0.96

is_there() { [ "$(cat "$dest/build-version" 2>/dev/null)" = "$torch" ] && [ -e "$dest/lib/libtorch_cpu.so" ]; }
is_there && exit 0
command -v python3 >/dev/null || { echo "setup: python3 is missing; install Python 3 with pip" >&2; exit 1; }
python3 -m pip --version >/dev/null 2>&1 || { echo "setup: pip is missing; install python3-pip" >&2; exit 1; }
cc=${CC:-cc}
cxx=${CXX:-c++}
for compiler in "$cc" "$cxx"; do
    command -v "$compiler" >/dev/null || { echo "setup: no $compiler; install gcc and g++" >&2; exit 1; }
done

case "$(uname -m)" in
    x86_64) arch=x86_64; packages=("torch==$torch" "nvidia-cuda-runtime==$cudart" "nvidia-cuda-cupti==$cupti") ;;
    aarch64) arch=aarch64; packages=("torch==$torch") ;;
    *) echo "setup: no libtorch wheel for $(uname -m); build with --no-default-features (all but search and training)" >&2; exit 1 ;;
esac
# One at a time: a second make waits here, and then finds it.
mkdir -p "$(dirname "$dest")"
if command -v flock >/dev/null; then
    exec 9>"$dest.lock"
    flock 9
    is_there && exit 0
    rm -rf "$dest".part*
fi
work=$(mktemp -d) part=$(mktemp -d "$dest.part.XXXXXX")
trap 'rm -rf "$work" "$part"' EXIT
echo "setup: fetching libtorch $torch (once, about 540 MB)" >&2
python3 -m pip download -q --no-deps --only-binary=:all: \
    --implementation cp --python-version 3.11 --abi cp311 --abi none \
    --platform "manylinux_2_28_$arch" --platform "manylinux_2_25_$arch" --platform "manylinux2014_$arch" \
    -d "$work" "${packages[@]}"

chmod 755 "$part"
mkdir -p "$part/lib"
python3 - "$work" "$part" <<'PY'
import glob, os, shutil, sys, zipfile

wheels, dest = sys.argv[1:]
LIBRARIES = {"libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"}
INCLUDE = "torch/include/"
for wheel in glob.glob(wheels + "/*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            base = os.path.basename(name)
            if name.startswith(INCLUDE) and base:
                out = os.path.join(dest, "include", name[len(INCLUDE):])
            elif "/lib/" in name and (base in LIBRARIES or base.startswith(("libgomp", "libarm_compute", "libopenblas", "libgfortran"))):
                out = os.path.join(dest, "lib", base)
            else:
                continue
            os.makedirs(os.path.dirname(out), exist_ok=True)
            with archive.open(name) as src, open(out, "wb") as dst:
                shutil.copyfileobj(src, dst, 1 << 20)
PY
# torch-sys passes -ltorch, and the wheel's libtorch.so needs all of CUDA: an empty one stands in.
echo | "$cc" -shared -xc - -o "$part/lib/libtorch.so" -Wl,-soname,libtorch.so \
    -Wl,--no-as-needed -L"$part/lib" -ltorch_cpu -Wl,--allow-shlib-undefined -Wl,-rpath,'$ORIGIN'
echo "$torch" >"$part/build-version"
rm -rf "$dest"
mv "$part" "$dest"
echo "setup: libtorch $torch is in $dest" >&2

#!/usr/bin/env bash
# The whole pipeline on this machine, two processes over TCP. With CIFAR-10 at hand
# (HANAS_DATA=FOLDER holding cifar-10-batches-bin or its files) it takes that, else procedural images.
set -euo pipefail
cd "$(dirname "$0")/.."
out=demo
rm -rf "$out"
mkdir -p "$out"
export PATH="$PWD/target/release:$PATH" HANAS_STORE="$out/hanas.sqlite" HANAS_DEVICES="$out/devices.toml"

if [ -n "${HANAS_DATA:-}" ]; then
    task=cifar10-resnet20 data=(--data "$HANAS_DATA")
else
    task=shapes10-resnet20 data=()
    echo "No HANAS_DATA: the demo searches on procedural images, not on CIFAR-10."
fi

hanas-agent serve --tcp 127.0.0.1:0 >"$out/agent.out" 2>"$out/agent.log" &
agent=$!
trap 'kill $agent 2>/dev/null || true' EXIT
for _ in $(seq 100); do
    grep -q tcp:// "$out/agent.out" && break
    kill -0 $agent 2>/dev/null || { echo "demo: the agent did not start:" >&2; cat "$out/agent.log" >&2; exit 1; }
    sleep 0.1
done
url=$(grep -o 'tcp://[^ ]*' "$out/agent.out") || {
    echo "demo: the agent does not get ready:" >&2
    cat "$out/agent.log" >&2
    exit 1
}

run() {
    printf '\n$ hanas %s\n' "$*"
    hanas "$@"
}
run device add board "$url"
run device info board
run profile --device board --task $task --batch 1 --allow-noisy
run space build --task $task --batch 1
run space show --task $task --batch 1
run search htas --device board --task $task --batch 1 --budget 0.5x --seed 1 "${data[@]}" \
    --images 1000 --warmup-epochs 1 --epochs 4 --train-batch 64 --out "$out/htas"
run train "$out/htas" "${data[@]}" --images 1000 --epochs 6 --train-batch 64
run export "$out/htas" --output "$out/net.onnx" --batch 1
# A net over its budget ends it with 1, and stands in the report all the same.
code=0
run verify "$out/htas" --device board --allow-noisy || code=$?
run report --task $task --batch 1 "$out/htas" --output "$out/report.html"
echo
echo "Open $out/report.html; the found net is $out/net.onnx."
exit $code

#!/usr/bin/env bash
# What attnmap does on a CUDA device, in one command of under nine minutes: parity with the CPU, the time of a step in
# f16 and bf16 beside diffusers on the same checkpoints, and the cost of recording. Nothing is asserted.
#
#   bash benches/gpu.sh                 # parity alone where Python has no torch and diffusers
#   DEVICE=cpu SIZE=64 STEPS=2 bash benches/gpu.sh    # tries the kit itself
#
# Full-size checkpoints of random weights are made once in $WORK (3 GB for Stable Diffusion 1.5, 7 GB for SDXL).
set -euo pipefail
cd "$(dirname "$0")/.."
: "${DEVICE:=cuda}" "${WORK:=/tmp/attnmap-gpu}" "${PYTHON:=python3}" "${STEPS:=20}" "${SIZE:=512}" "${KINDS:=sd15 sdxl}"
features=(); [ "$DEVICE" = cuda ] && features=(--features cuda)
began=$SECONDS
bench() { cargo bench --quiet "${features[@]}" --bench gpu -- "$@" --device "$DEVICE"; }

[ "$DEVICE" = cpu ] || nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
cargo build --release --quiet "${features[@]}"
echo "built in $((SECONDS - began)) s"
bench parity
if ! "$PYTHON" -c 'import torch, diffusers, transformers' 2>/dev/null; then
  echo "no torch and diffusers for $PYTHON: full-size checkpoints cannot be made; set PYTHON"
  exit 0
fi
for kind in $KINDS; do
  folder="$WORK/$kind"
  [ -e "$folder/complete" ] || { "$PYTHON" tests/fixtures/make_full_size.py "$kind" "$folder" && touch "$folder/complete"; }
  for format in f16:float16 bf16:bfloat16; do
    # In turn, in the same call, so that both see the same machine.
    bench steps "$folder" --dtype "${format%%:*}" --size "$SIZE" --steps "$STEPS"
    "$PYTHON" benches/peers/gpu_step.py "$folder" --device "$DEVICE" --dtype "${format##*:}" --size "$SIZE" --steps "$STEPS"
  done
done
echo "in all $((SECONDS - began)) s"

#!/usr/bin/env bash
# What attnmap does on a CUDA device, in one command of under nine minutes: parity with the CPU, the time of a step in
# f16 and bf16 beside diffusers on the same checkpoints, and the cost of recording. Nothing is asserted.
#
#   bash benches/gpu.sh                 # parity alone where Python has no torch and diffusers
#   DEVICE=cpu bash benches/gpu.sh      # tries the kit itself, on the tests' tiny checkpoints
#
# Full-size checkpoints of random weights are made once in $WORK (2 GB for Stable Diffusion 1.5, 7 GB for SDXL, 7 GB for Stable Diffusion
# 3.5 medium without T5). A kind that is a folder is taken as it is: KINDS="sd15 ./my-model".
set -euo pipefail
cd "$(dirname "$0")/.."
: "${DEVICE:=cuda}" "${WORK:=/tmp/attnmap-gpu}" "${PYTHON:=python3}"
features=()
if [ "$DEVICE" = cuda ]; then
  features=(--features cuda)
  : "${STEPS:=20}" "${SIZE:=512}" "${KINDS:=sd15 sdxl sd35-medium}" "${FORMATS:=f16:float16 bf16:bfloat16}"
else
  # No time of these says anything; that each line is there does.
  tiny=tests/fixtures/tiny
  : "${STEPS:=4}" "${SIZE:=64}" "${KINDS:=$tiny-sd1 $tiny-sdxl $tiny-sd35}" "${FORMATS:=f32:float32 bf16:bfloat16}"
fi
began=$SECONDS
bench() { cargo bench --quiet "${features[@]}" --bench gpu -- "$@" --device "$DEVICE"; }

[ "$DEVICE" = cpu ] || nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
cargo bench --quiet "${features[@]}" --bench gpu --no-run
echo "built in $((SECONDS - began)) s"
bench parity
if ! "$PYTHON" -c 'import torch, diffusers, transformers' 2>/dev/null; then
  echo "no torch and diffusers for $PYTHON: full-size checkpoints cannot be made; set PYTHON"
  exit 0
fi
for kind in $KINDS; do
  folder="$WORK/$kind"
  if [ -d "$kind" ]; then
    folder="$kind"
  elif [ ! -e "$folder/complete" ]; then
    "$PYTHON" tests/fixtures/make_full_size.py "$kind" "$folder"
    touch "$folder/complete"
  fi
  echo "== $kind"
  for format in $FORMATS; do
    # In turn, in the same call, so that both see the same machine.
    bench steps "$folder" --dtype "${format%%:*}" --size "$SIZE" --steps "$STEPS"
    "$PYTHON" benches/peers/gpu_step.py "$folder" --device "$DEVICE" --dtype "${format##*:}" --size "$SIZE" --steps "$STEPS"
  done
done
echo "in all $((SECONDS - began)) s"

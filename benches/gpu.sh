#!/usr/bin/env bash
# What attnmap does on a CUDA device, in one command of under nine minutes: parity with the CPU, the time of a step in
# f16 and bf16 beside diffusers on the same checkpoints, and the cost of recording. No figure is asserted.
#
#   bash benches/gpu.sh                 # parity alone where Python has no torch and diffusers
#   DEVICE=cpu bash benches/gpu.sh      # tries the kit itself, on the tests' tiny checkpoints
#   BUDGET=1800 bash benches/gpu.sh     # seconds in all, with the build; 510 where it is not given
#
# Each part tells how long it took. The part that would outlast the budget is stopped, and what is left is named as
# skipped. What was built and made stays, so that a second call gets further. Exit code 1: some part failed.
#
# Full-size checkpoints of random weights are made once in $WORK (2 GB for Stable Diffusion 1.5, 7 GB for SDXL, 7 GB for Stable Diffusion
# 3.5 medium without T5). A kind that is a folder is taken as it is: KINDS="sd15 ./my-model".
set -euo pipefail
cd "$(dirname "$0")/.."
: "${DEVICE:=cuda}" "${BUDGET:=510}" "${WORK:=/tmp/attnmap-gpu}" "${PYTHON:=python3}"
features=()
if [ "$DEVICE" = cuda ]; then
  features=(--features cuda)
  : "${STEPS:=20}" "${SIZE:=512}" "${KINDS:=sd15 sdxl sd35-medium}" "${FORMATS:=f16:float16 bf16:bfloat16}"
else
  # No time of these says anything; that each line is there does.
  tiny=tests/fixtures/tiny
  : "${STEPS:=4}" "${SIZE:=64}" "${KINDS:=$tiny-sd1 $tiny-sdxl $tiny-sd35}" "${FORMATS:=f32:float32 bf16:bfloat16}"
fi
SECONDS=0 skipped=() failed=()
bench=(cargo bench --quiet "${features[@]}" --bench gpu --)

# part NAME COMMAND...: runs it for as long as the budget lasts, and tells how long it took. Fails where it did not end.
part() {
  local name=$1 from=$SECONDS left=$((BUDGET - SECONDS)) code=0
  shift
  if [ "$left" -le 0 ]; then
    skipped+=("$name")
    return 1
  fi
  timeout --kill-after=5 "$left" "$@" || code=$?
  if [ "$code" != 0 ] && [ "$SECONDS" -ge "$BUDGET" ]; then
    skipped+=("$name (stopped after $((SECONDS - from)) s)")
  elif [ "$code" != 0 ]; then
    failed+=("$name (exit code $code after $((SECONDS - from)) s)")
  else
    echo "-- $name: $((SECONDS - from)) s, $SECONDS s in all"
  fi
  return "$code"
}

finish() {
  local name
  for name in "${skipped[@]}"; do echo "skipped, as the budget of $BUDGET s was spent: $name"; done
  for name in "${failed[@]}"; do echo "FAILED: $name"; done
  echo "in all $SECONDS s of $BUDGET s"
  exit $((${#failed[@]} > 0))
}

[ "$DEVICE" = cpu ] || nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
if ! part build cargo bench --quiet "${features[@]}" --bench gpu --no-run; then
  # Where it failed, nothing else can run.
  [ ${#failed[@]} != 0 ] || skipped+=(parity $KINDS)
  finish
fi
part parity "${bench[@]}" parity --device "$DEVICE" || true
if ! "$PYTHON" -c 'import torch, diffusers, transformers' 2>/dev/null; then
  echo "no torch and diffusers for $PYTHON: full-size checkpoints cannot be made; set PYTHON"
  finish
fi
for kind in $KINDS; do
  if [ "$SECONDS" -ge "$BUDGET" ]; then
    skipped+=("$kind")
    continue
  fi
  echo "== $kind"
  folder="$WORK/$kind"
  if [ -d "$kind" ]; then
    folder="$kind"
  elif [ ! -e "$folder/complete" ]; then
    part "$kind: its checkpoint" "$PYTHON" tests/fixtures/make_full_size.py "$kind" "$folder" || continue
    touch "$folder/complete"
  fi
  for format in $FORMATS; do
    # In turn, in the same call, so that both see the same machine.
    part "$kind ${format%%:*}: attnmap" "${bench[@]}" \
      steps "$folder" --device "$DEVICE" --dtype "${format%%:*}" --size "$SIZE" --steps "$STEPS" || true
    part "$kind ${format%%:*}: diffusers" "$PYTHON" benches/peers/gpu_step.py \
      "$folder" --device "$DEVICE" --dtype "${format##*:}" --size "$SIZE" --steps "$STEPS" || true
  done
done
finish

#!/bin/sh
# Trains the default checkpoint's successor, stage after stage. Every stage is skipped when it is done and goes on where it stopped, so that this
# can be stopped and started at any time. Settings are environment variables; their defaults are below.
set -eu
cd "$(dirname "$0")"
: "${WORK:=work}"                     # everything that is made
: "${EARLIER:=../models/default}"     # the checkpoint whose UNet, text encoder and VAE are trained on
: "${PROCESSES:=2}"                   # one a core; 1 on a CUDA device, or beside other work (see README.md)
: "${VAE_STEPS:=1000}" "${VAE_BATCH:=16}"
: "${PARTS_FIRST:=4}" "${PARTS:=16}" "${PART:=2000}"  # files of encoded scenes before training, in all, and the scenes in each
: "${TEXT_STEPS:=300}" "${TEXT_BATCH:=128}"
: "${SAMPLES_FIRST:=40000}" "${SAMPLES:=600000}" "${BATCH:=64}" "${EMA:=0.998}"
: "${COMPILE:=}"                      # --compile: minutes at every start, then a quarter more samples per second on a CPU
: "${MINUTES:=inf}"                   # of the last stage; the same command goes on
mkdir -p "$WORK"
together=python
[ "$PROCESSES" = 1 ] || together="torchrun --standalone --nproc-per-node $PROCESSES"

encode() { # up to this many files
    for seed in $(seq 1 "$1"); do
        [ -f "$WORK/scenes-$seed.npz" ] || echo "$seed"
    done | OMP_NUM_THREADS=1 xargs -r -P "$PROCESSES" -I{} python encode.py --vae "$WORK/vae" --out "$WORK/scenes-{}.npz" --count "$PART" --seed {}
}

train() { # up to this many samples
    $together train_unet.py --init "$WORK/init" --latents "$WORK"/scenes-*[0-9].npz --work "$WORK/run" --batch "$BATCH" --ema "$EMA" \
        --bias 1.4 --floor 0.5 --samples "$1" --schedule "$SAMPLES" --minutes "$MINUTES" $COMPILE
}

echo "$(date +%T) VAE"
[ -d "$WORK/vae" ] || $together train_vae.py --init "$EARLIER/vae" --out "$WORK/vae" --steps "$VAE_STEPS" --batch "$VAE_BATCH" --lr 1e-3
[ -d "$WORK/init/text_encoder" ] || python start.py --from "$EARLIER" --vae "$WORK/vae" --merges ../models/clip/merges.txt.gz --out "$WORK/init"
echo "$(date +%T) scenes"
encode "$PARTS_FIRST"
echo "$(date +%T) text encoder"
if ! [ -f "$WORK/run/text.done" ]; then
    train "$BATCH"
    $together train_text.py --init "$WORK/init" --state "$WORK/run/state.pt" --keep 0 --steps "$TEXT_STEPS" --batch "$TEXT_BATCH"
    touch "$WORK/run/text.done"
fi
echo "$(date +%T) both networks"
train "$SAMPLES_FIRST"
encode "$PARTS"
train "$SAMPLES"
python export.py --init "$WORK/init" --state "$WORK/run/state.pt" --out "$WORK/model"
echo "$(date +%T) done"

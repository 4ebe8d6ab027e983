#!/bin/sh
# Measures everything that hangs on the default checkpoint, in the order in which one part needs another. Run it once the new weights lie in
# models/default. Each step leaves its answer in $LOGS, is skipped where that is there, and can be named alone: sh training/measure.sh verdicts
set -eu
cd "$(dirname "$0")/.."
: "${LOGS:=training/work/measured}"   # an answer per step
: "${PYTHON:=python}"                 # with training/requirements.txt
: "${SHARE:=2}"                       # verdicts takes every so many of the held-out prompts
: "${WHY_DATA:=training/work/why}"    # what why_truth goes on from
model=models/default scenes=tests/data/scenes
mkdir -p "$LOGS"
wanted="$*"

step() { # name, command...
    name=$1; shift
    case " $wanted " in "  " | *" $name "*) ;; *) return 0 ;; esac
    [ -e "$LOGS/$name.txt" ] && return 0
    echo "$(date +%T) $name" >&2
    "$@" > "$LOGS/$name.partial" 2> "$LOGS/$name.err" || { echo "failed: $LOGS/$name.err" >&2; return 1; }
    mv "$LOGS/$name.partial" "$LOGS/$name.txt"
}

scenes() { $PYTHON training/make_scenes.py --out $scenes; }
example() { cargo run --release --quiet --example "$@"; }

# The model card: held-out prompts, free wording, attention on scenes with masks.
step evaluation $PYTHON training/evaluate.py --model $model --unknown 80 --out $model/evaluation.json --grid $model/samples.png
step free $PYTHON training/evaluate.py --model $model --free training/prompts.txt --grid $model/free.png
step scenes scenes
step attention $PYTHON training/measure_attention.py --model $model --scenes $scenes/report
step rules $PYTHON training/try_rules.py --model $model --scenes $scenes/select $scenes/report
# ACCURACY.md, in its order. Thresholds are chosen on select; where a command prints another one, it goes into the code before what follows.
step eval cargo run --release --quiet -- eval $scenes/final
step verdicts example verdicts -- scenes $scenes/select $scenes/report $scenes/final
step verdicts-prompts example verdicts -- prompts $model/evaluation.json "$SHARE"
step statements example statements -- $model/evaluation.json $scenes/final
step causes example causes -- $scenes/select $scenes/final
step expectations example expectations -- $scenes/select $scenes/final
# The LoRA and the word of examples/, then why, which asks about both.
step lora $PYTHON training/train_lora.py --init $model --out examples/lora/stand-left.safetensors
step word $PYTHON training/train_word.py --init $model --out examples/embedding/granny-smith.safetensors
step why-select example why_truth -- "$WHY_DATA" --select --seeds 8
step why example why_truth -- "$WHY_DATA" --cases 30 --seeds 8 --noises 8
step attribution example attribution -- $scenes/final 12
# README's and the docs' pictures.
step showcase bash outputs/showcase/make.sh
echo "$(date +%T) done; answers in $LOGS" >&2

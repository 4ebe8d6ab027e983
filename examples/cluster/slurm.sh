#!/bin/bash
# A gallery split over a Slurm job array: every task makes its part, and the folder is all that they share.
#
#   sbatch --array=1-16 examples/cluster/slurm.sh prompts.txt --seeds 0..64 --out /shared/night
#
# The page /shared/night/index.html is there from the first cell; the tasks take turns at it. Where the file system knows no
# locks it may lag behind; this makes it anew: attnmap gallery --index /shared/night
#
# What follows the script's name goes to `attnmap gallery` as it stands. A task that is killed or fails is put again with the
# same line, or alone with SHARDS=16 sbatch --array=3 ...; finished cells are kept.
#SBATCH --job-name=attnmap
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --requeue
set -euo pipefail
exec attnmap gallery "$@" --threads "${SLURM_CPUS_PER_TASK:-2}" \
  --shard "$SLURM_ARRAY_TASK_ID/${SHARDS:-$SLURM_ARRAY_TASK_COUNT}"

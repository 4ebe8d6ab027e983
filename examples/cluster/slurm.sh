#!/bin/bash
# A gallery split over a Slurm job array: every task makes its part, and the folder is all that they share.
#
#   sbatch --array=1-16 examples/cluster/slurm.sh prompts.txt /shared/night
#   sbatch --dependency=afterany:JOBID --wrap "attnmap gallery --index /shared/night"
#
# A task that is killed or fails is put again with the same line: finished cells are kept.
#SBATCH --job-name=attnmap
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --requeue
set -euo pipefail
prompts=$1 out=$2
exec attnmap gallery "$prompts" --seeds 0..64 --out "$out" \
  --threads "${SLURM_CPUS_PER_TASK:-2}" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"

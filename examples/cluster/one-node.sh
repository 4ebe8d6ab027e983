#!/bin/bash
# The Slurm recipe tried on one Debian machine, as root, with slurm-wlm and munge installed and `attnmap` on the PATH:
#
#   bash examples/cluster/one-node.sh > examples/cluster/transcript.txt
#
# Starts munged, slurmctld and slurmd by hand, splits a gallery over a job array, kills one task while it works, puts it again,
# makes the index, and compares the folder with one that a single process made. It writes /etc/slurm/slurm.conf.
set -euo pipefail
recipe=$(dirname "$(realpath "$0")")/slurm.sh
cd "$(mktemp -d)"
say() { printf '\n# %s\n' "$*"; }
run() { printf '$ %s\n' "$*"; eval "$*"; }
jobs_left() { squeue --noheader --states=PD,R,CG,CF | wc -l; }

say "One node with two cores, everything else at Slurm's defaults."
host=$(hostname -s)
cat >/etc/slurm/slurm.conf <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
NodeName=node NodeHostname=$host NodeAddr=127.0.0.1 CPUs=2 CoresPerSocket=2
PartitionName=main Nodes=ALL Default=YES
CONF
mkdir -p /run/munge /var/spool/slurmctld /var/spool/slurmd
chown munge: /run/munge
munge -n >/dev/null 2>&1 || runuser -u munge -- munged
slurmctld 2>/dev/null
slurmd 2>/dev/null
until sinfo --noheader --states=idle | grep -q node; do sleep 0.2; done
run "dpkg-query -W -f '\${Package} \${Version}\n' slurm-wlm munge"
run "sinfo"

say "Eight prompts and ten seeds: 80 cells in 4 parts, a core each."
for thing in "an apple" "a frog" "a heart" "a house" "a panda" "a fox" "a penguin" "a sunflower"; do echo "$thing on the beach"; done >prompts.txt
run "cat prompts.txt"
ln -s "$recipe" slurm.sh
run "sbatch --parsable --array=1-4 --cpus-per-task=1 slurm.sh prompts.txt --seeds 0..10 --out night | tee job"
job=$(cat job)
until squeue --noheader --states=R | grep -q .; do sleep 0.1; done
sleep 4
run "squeue --format='%.10i %.8j %.2t %.6C'"

say "Task 2 is killed without warning while it works; what it had finished stays, and the half-made lies in a hidden folder."
task=$(squeue --noheader --format=%A --jobs="${job}_2")
run "kill -KILL \$(scontrol listpids $task | awk 'NR > 1 && \$1 > 0 { print \$1 }')"
while [ "$(jobs_left)" -gt 0 ]; do sleep 0.5; done
run "ls night/cells | wc -l"
run "ls -A night"
run "tail -n 2 slurm-${job}_*.out"

say "The killed task again, alone, which first removes what it had half made; then the index, which waits for it."
run "SHARDS=4 sbatch --parsable --array=2 --cpus-per-task=1 slurm.sh prompts.txt --seeds 0..10 --out night | tee again"
again=$(cat again)
run "sbatch --parsable --dependency=afterany:$again --output=index.out --wrap 'attnmap gallery --index night' | tee index"
run "squeue --format='%.10i %.8j %.2t %.12r'"
while [ "$(jobs_left)" -gt 0 ]; do sleep 0.5; done
run "ls -A night"
run "cat slurm-${again}_2.out index.out"

say "The same gallery by a single process: equal byte for byte, but for how long each cell took."
run "attnmap gallery prompts.txt --seeds 0..10 --out alone --quiet"
run "diff -r --exclude timings alone night && echo equal"

scontrol shutdown 2>/dev/null || true

#!/usr/bin/env bash
# Trains on one node with four GPUs, a process for each: sbatch examples/cluster/slurm.sh, from
# the repository, with the virtual environment in .venv and jax[cuda12] in it.
#SBATCH --job-name=memkd
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=memkd_%j.log
# SIGTERM to the processes two minutes before the time is over: they save and end with 75.
#SBATCH --signal=TERM@120
set -uo pipefail

# shellcheck source=/dev/null
. .venv/bin/activate

# A process that has saved and ended must not end those that still save (--kill-on-bad-exit=0,
# --wait=0). With more than one node data and teacher lie on a shared file system.
srun --kill-on-bad-exit=0 --wait=0 \
  python -m memkd_jax.main --config=configs/mvtec.py --workdir=runs/mvtec --coordinator=auto
code=$?

if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

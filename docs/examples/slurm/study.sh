#!/bin/bash
# A study on several machines:  sbatch study.sh --suite cifar10 --gpus 1,4,8 --optimizers apts,adam
# Adapt the lines below; `bench-apts slurm` writes and submits such a job by itself.
#SBATCH --job-name=bench-apts
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --time=240
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=bench-apts-%j.log
# 90 s before the time is up each command gets SIGTERM: the running trial writes a checkpoint.
#SBATCH --signal=TERM@90

# One command on each node, which starts that node's ranks. They find each other.
srun --ntasks-per-node=1 bench-apts run --grace 60 "$@"
code=$?

# 143 is 128 + SIGTERM: there is more to do, and the same command goes on where it stood.
if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

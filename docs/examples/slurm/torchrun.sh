#!/bin/bash
# The same by torchrun, where a site has it wrapped already:  sbatch torchrun.sh --suite cifar10 …
#SBATCH --job-name=bench-apts
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --time=240
#SBATCH --output=bench-apts-%j.log

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# One process on each node: bench-apts starts that node's ranks itself.
srun --ntasks-per-node=1 torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node 1 \
    --rdzv-backend c10d --rdzv-endpoint "$head:29500" --rdzv-id "$SLURM_JOB_ID" \
    -m bench_apts run "$@"

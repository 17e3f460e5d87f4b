#!/bin/bash
# The same on one machine without a scheduler: N processes, one per GPU (or per core group on processors).
#
#   experiments/slurm/torchrun.sh 2 fit -c experiments/base.yaml -c experiments/demo.yaml --out runs/demo \
#     --trainer.devices=2 --trainer.strategy=ddp
#   experiments/slurm/torchrun.sh 2 draw --run runs/demo --cohort cohorts/demo --out runs/demo/maps
#
# torchrun answers with exit code 1 whatever its processes ended with; RUN/record.json says "stopped" after a signal.
set -eu
processes=$1
shift
exec torchrun --standalone --nproc-per-node="$processes" -m diffusion_adc "$@"

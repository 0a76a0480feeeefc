#!/usr/bin/env bash
# Trains a recipe on a machine; the scripts of v1_5/, v1_6/ and slurm/ only choose the recipe. It is `llava train` with
# variables: those of VARIABLES in llava/train/launch.py, described in docs/training.md.
#
#   RECIPE=llava-v1.5-7b-visionzip-64 HARDWARE=8x24gb bash scripts/train.sh
#
# A variable that is set takes the place of what recipe and hardware say; further flags follow the script's name and
# count most. Relative paths begin at the repository. DRY_RUN=1 shows the command.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

exec python -m llava.train.launch --variables "$@"

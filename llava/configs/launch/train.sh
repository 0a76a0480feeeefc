#!/usr/bin/env bash
# `llava train` with variables: those of VARIABLES in llava/train/launch.py. scripts/train.sh of the repository is the
# same with relative paths that begin there.
#
#   RECIPE=llava-v1.5-7b-visionzip-64 HARDWARE=8x24gb bash train.sh
#
# A variable that is set takes the place of what recipe and hardware say; flags count most. DRY_RUN=1 shows the command.
set -euo pipefail
exec python -m llava.train.launch --variables "$@"

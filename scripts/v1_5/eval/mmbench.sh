#!/usr/bin/env bash
# MMBench dev, English: circular and vanilla accuracy, and the table that its server takes.
# All variables (CKPT, COMPRESSION, CUDA_VISIBLE_DEVICES, OUTPUT, DATA...): scripts/eval.sh.
set -euo pipefail

export CKPT="${CKPT:-liuhaotian/llava-v1.5-7b}"
export TASKS="${TASKS:-mmbench}"
exec bash "$(dirname "$0")/../../eval.sh" "$@"

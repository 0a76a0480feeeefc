#!/usr/bin/env bash
# MME: perception, cognition, and their sum.
# All variables (CKPT, COMPRESSION, CUDA_VISIBLE_DEVICES, OUTPUT, DATA...): scripts/eval.sh.
set -euo pipefail

export CKPT="${CKPT:-liuhaotian/llava-v1.5-7b}"
export TASKS="${TASKS:-mme}"
exec bash "$(dirname "$0")/../../eval.sh" "$@"

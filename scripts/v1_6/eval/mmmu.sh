#!/usr/bin/env bash
# MMMU validation: micro accuracy. TASKS=mmmu_val_official asks with MMMU's own prompt.
# All variables (CKPT, COMPRESSION, CUDA_VISIBLE_DEVICES, OUTPUT, DATA...): scripts/eval.sh.
set -euo pipefail

export CKPT="${CKPT:-liuhaotian/llava-v1.6-vicuna-7b}"
export TASKS="${TASKS:-mmmu_val}"
exec bash "$(dirname "$0")/../../eval.sh" "$@"

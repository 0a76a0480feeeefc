#!/usr/bin/env bash
# POPE on COCO: mean F1 of three splits.
# All variables (CKPT, COMPRESSION, CUDA_VISIBLE_DEVICES, OUTPUT, DATA...): scripts/eval.sh.
set -euo pipefail

export CKPT="${CKPT:-liuhaotian/llava-v1.5-7b}"
export TASKS="${TASKS:-pope}"
exec bash "$(dirname "$0")/../../eval.sh" "$@"

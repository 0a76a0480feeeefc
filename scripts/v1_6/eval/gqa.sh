#!/usr/bin/env bash
# GQA, testdev-balanced: exact match.
# All variables (CKPT, COMPRESSION, CUDA_VISIBLE_DEVICES, OUTPUT, DATA...): scripts/eval.sh.
set -euo pipefail

export CKPT="${CKPT:-liuhaotian/llava-v1.6-vicuna-7b}"
export TASKS="${TASKS:-gqa}"
exec bash "$(dirname "$0")/../../eval.sh" "$@"

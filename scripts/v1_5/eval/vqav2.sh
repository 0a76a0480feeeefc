#!/usr/bin/env bash
# VQAv2 test-dev: the file that EvalAI takes. TASKS=vqav2_val is scored here.
# All variables (CKPT, COMPRESSION, CUDA_VISIBLE_DEVICES, OUTPUT, DATA...): scripts/eval.sh.
set -euo pipefail

export CKPT="${CKPT:-liuhaotian/llava-v1.5-7b}"
export TASKS="${TASKS:-vqav2_testdev}"
exec bash "$(dirname "$0")/../../eval.sh" "$@"

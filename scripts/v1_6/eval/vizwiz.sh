#!/usr/bin/env bash
# VizWiz test: the file that EvalAI takes. TASKS=vizwiz_val is scored here.
# All variables (CKPT, COMPRESSION, CUDA_VISIBLE_DEVICES, OUTPUT, DATA...): scripts/eval.sh.
set -euo pipefail

export CKPT="${CKPT:-liuhaotian/llava-v1.6-vicuna-7b}"
export TASKS="${TASKS:-vizwiz}"
exec bash "$(dirname "$0")/../../eval.sh" "$@"

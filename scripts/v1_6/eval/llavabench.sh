#!/usr/bin/env bash
# LLaVA-Bench in the wild: answers, and a judge's scores where JUDGE_URL and JUDGE_MODEL are set.
# All variables (CKPT, COMPRESSION, CUDA_VISIBLE_DEVICES, OUTPUT, DATA...): scripts/eval.sh.
set -euo pipefail

export CKPT="${CKPT:-liuhaotian/llava-v1.6-vicuna-7b}"
export TASKS="${TASKS:-llava_bench}"
exec bash "$(dirname "$0")/../../eval.sh" "$@"

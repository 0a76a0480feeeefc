#!/usr/bin/env bash
# ScienceQA test, questions with an image: accuracy. TASKS=sqa_full: all questions.
# All variables (CKPT, COMPRESSION, CUDA_VISIBLE_DEVICES, OUTPUT, DATA...): scripts/eval.sh.
set -euo pipefail

export CKPT="${CKPT:-liuhaotian/llava-v1.6-vicuna-7b}"
export TASKS="${TASKS:-sqa_img}"
exec bash "$(dirname "$0")/../../eval.sh" "$@"

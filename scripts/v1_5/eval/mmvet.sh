#!/usr/bin/env bash
# MM-Vet: answers, and a judge's mean grade where JUDGE_URL and JUDGE_MODEL are set.
# All variables (CKPT, COMPRESSION, CUDA_VISIBLE_DEVICES, OUTPUT, DATA...): scripts/eval.sh.
set -euo pipefail

export CKPT="${CKPT:-liuhaotian/llava-v1.5-7b}"
export TASKS="${TASKS:-mmvet}"
exec bash "$(dirname "$0")/../../eval.sh" "$@"

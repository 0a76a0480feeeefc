#!/usr/bin/env bash
# TextVQA val with OCR tokens: soft accuracy. TASKS=textvqa_no_ocr: without them.
# All variables (CKPT, COMPRESSION, CUDA_VISIBLE_DEVICES, OUTPUT, DATA...): scripts/eval.sh.
set -euo pipefail

export CKPT="${CKPT:-liuhaotian/llava-v1.6-vicuna-7b}"
export TASKS="${TASKS:-textvqa}"
exec bash "$(dirname "$0")/../../eval.sh" "$@"

#!/usr/bin/env bash
# SEED-Bench, images and middle frames of videos: accuracy. TASKS=seed_image: images only.
# All variables (CKPT, COMPRESSION, CUDA_VISIBLE_DEVICES, OUTPUT, DATA...): scripts/eval.sh.
set -euo pipefail

export CKPT="${CKPT:-liuhaotian/llava-v1.6-vicuna-7b}"
export TASKS="${TASKS:-seed}"
exec bash "$(dirname "$0")/../../eval.sh" "$@"

#!/usr/bin/env bash
# VisionZip's projector tuning of a released LLaVA-NeXT. TOKENS counts five tiles, each of which gets a fifth.
#
#   MODEL=mistral-7b TOKENS=320 bash scripts/v1_6/visionzip_tune.sh
#
# All other variables, and flags after the script's name: scripts/train.sh.
set -euo pipefail

MODEL="${MODEL:-vicuna-7b}"   # vicuna-7b, mistral-7b, vicuna-13b
TOKENS="${TOKENS:-320}"       # 640, 320, 160; another budget of a tile: COMPRESSION=visionzip:41+8
export RECIPE="${RECIPE:-llava-v1.6-$MODEL-visionzip-$TOKENS}"
export OUTPUT="${OUTPUT:-${COMPRESSION:+checkpoints/llava-v1.6-$MODEL-${COMPRESSION//[^A-Za-z0-9_.-]/-}}}"
exec bash "$(dirname "$0")/../train.sh" "$@"

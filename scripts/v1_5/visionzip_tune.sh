#!/usr/bin/env bash
# VisionZip's projector tuning: the projector of a released LLaVA-1.5 learns, on a tenth of stage 2's data, to speak for
# fewer tokens; all else is frozen. The paper did not publish its settings: see llava/configs/recipes/base.
#
#   SIZE=7b TOKENS=64 bash scripts/v1_5/visionzip_tune.sh
#
# All other variables, and flags after the script's name: scripts/train.sh.
set -euo pipefail

SIZE="${SIZE:-7b}"          # 7b, 13b
TOKENS="${TOKENS:-64}"      # 192, 128, 64; another budget: COMPRESSION=visionzip:41+8
export RECIPE="${RECIPE:-llava-v1.5-$SIZE-visionzip-$TOKENS}"
export OUTPUT="${OUTPUT:-${COMPRESSION:+checkpoints/llava-v1.5-$SIZE-${COMPRESSION//[^A-Za-z0-9_.-]/-}}}"
exec bash "$(dirname "$0")/../train.sh" "$@"

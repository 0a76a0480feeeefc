#!/usr/bin/env bash
# LLaVA-1.5, stage 2: projector and language model learn to follow visual instructions; the vision tower stays frozen.
# TOKENS=192, 128 or 64 trains the 7B with VisionZip, as in the table 11 of its paper.
# All other variables, and flags after the script's name: scripts/train.sh.
set -euo pipefail

SIZE="${SIZE:-7b}"          # 7b, 13b
export RECIPE="${RECIPE:-llava-v1.5-$SIZE-finetune${TOKENS:+-visionzip-$TOKENS}}"
exec bash "$(dirname "$0")/../train.sh" "$@"

#!/usr/bin/env bash
# LLaVA-NeXT, stage 2 on tiles: projector, newline and language model. LLaVA trained the vision tower too; here it is
# frozen.
# TOKENS=640 trains the Vicuna 7B with VisionZip, as in the table 17 of its paper.
# All other variables, and flags after the script's name: scripts/train.sh.
set -euo pipefail

MODEL="${MODEL:-vicuna-7b}"   # vicuna-7b, mistral-7b, vicuna-13b
export RECIPE="${RECIPE:-llava-v1.6-$MODEL-finetune${TOKENS:+-visionzip-$TOKENS}}"
exec bash "$(dirname "$0")/../train.sh" "$@"

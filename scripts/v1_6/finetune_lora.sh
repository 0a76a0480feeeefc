#!/usr/bin/env bash
# LLaVA-NeXT, stage 2 on tiles with LoRA.
# All other variables, and flags after the script's name: scripts/train.sh.
set -euo pipefail

MODEL="${MODEL:-vicuna-7b}"   # vicuna-7b, mistral-7b, vicuna-13b
export RECIPE="${RECIPE:-llava-v1.6-$MODEL-lora}"
exec bash "$(dirname "$0")/../train.sh" "$@"

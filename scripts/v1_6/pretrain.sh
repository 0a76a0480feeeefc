#!/usr/bin/env bash
# LLaVA-NeXT, stage 1: a new projector is aligned with a language model and a vision tower, both frozen.
# All other variables, and flags after the script's name: scripts/train.sh.
set -euo pipefail

MODEL="${MODEL:-vicuna-7b}"   # vicuna-7b, mistral-7b, vicuna-13b
export RECIPE="${RECIPE:-llava-v1.6-$MODEL-align}"
exec bash "$(dirname "$0")/../train.sh" "$@"

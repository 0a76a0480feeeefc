#!/usr/bin/env bash
# LLaVA-1.5, stage 1: a new projector is aligned with a language model and a vision tower, both frozen.
# All other variables, and flags after the script's name: scripts/train.sh.
set -euo pipefail

SIZE="${SIZE:-7b}"          # 7b, 13b
export RECIPE="${RECIPE:-llava-v1.5-$SIZE-align}"
exec bash "$(dirname "$0")/../train.sh" "$@"

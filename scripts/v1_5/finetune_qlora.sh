#!/usr/bin/env bash
# LLaVA-1.5, stage 2 with LoRA on a language model in 4 bits.
# All other variables, and flags after the script's name: scripts/train.sh.
set -euo pipefail

SIZE="${SIZE:-7b}"          # 7b, 13b
export RECIPE="${RECIPE:-llava-v1.5-$SIZE-qlora}"
exec bash "$(dirname "$0")/../train.sh" "$@"

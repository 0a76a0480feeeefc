#!/usr/bin/env bash
# A released LLaVA-1.5 learns a task of your own with LoRA: DATA and IMAGES name it.
# All other variables, and flags after the script's name: scripts/train.sh.
set -euo pipefail

SIZE="${SIZE:-7b}"          # 7b, 13b
export RECIPE="${RECIPE:-llava-v1.5-$SIZE-lora-task}"
exec bash "$(dirname "$0")/../train.sh" "$@"

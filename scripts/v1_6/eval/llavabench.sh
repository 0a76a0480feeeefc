#!/usr/bin/env bash
set -euo pipefail
CKPT="${CKPT:-liuhaotian/llava-v1.6-vicuna-7b}" exec bash "$(dirname "$0")/../../eval.sh" llava_bench "$@"

#!/usr/bin/env bash
set -euo pipefail
CKPT="${CKPT:-liuhaotian/llava-v1.5-7b}" exec bash "$(dirname "$0")/../../eval.sh" mmvet "$@"

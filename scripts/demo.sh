#!/usr/bin/env bash
# The demo in the browser, on this machine alone: which tokens are kept of a picture, and what the model answers.
#
#   CKPT         the checkpoint to show  (default: the tiny model, with pictures of its world to begin with)
#   flags        go to `llava demo`: --compression visionzip:54+10, --device cuda, --port 8000, --share ...
#
# The environment is made by scripts/setup.sh, whose variables (VENV, PYTHON, TORCH_BUILD, ...) work here too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export VENV=${VENV:-.venv} EXTRAS=web,${EXTRAS:-}
bash scripts/setup.sh
PATH="$(cd "$VENV/bin" && pwd):$PATH"
export PATH OMP_WAIT_POLICY=PASSIVE  # idle threads that spin slow a tiny model many times over
if [[ -z ${CKPT:-} ]]; then
  CKPT=playground/tiny/model pictures=playground/tiny/out/demo
  python playground/tiny/make_data.py --output "$pictures" --train 1 --align 1 --scenes 6 --vqa 6 --pope 2
  set -- --examples "$pictures/images" --question "Which digit is in the northwest?" "$@"
fi
exec llava demo --model-path "$CKPT" "$@"

#!/usr/bin/env bash
# All of it, small: environment, data, one question with ever fewer tokens, tuning, evaluation, a table and a picture.
# Minutes on two CPU cores after the installation; interrupted, it goes on where it was. Options: --help.
# The environment is made by scripts/setup.sh, whose variables (VENV, PYTHON, TORCH_BUILD, ...) work here too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export VENV=${VENV:-.venv}
bash scripts/setup.sh
PATH="$(cd "$VENV/bin" && pwd):$PATH"  # the training script launches python by its name
export PATH OMP_WAIT_POLICY=PASSIVE     # idle threads that spin slow a tiny model many times over
exec python playground/tiny/quickstart.py "$@"

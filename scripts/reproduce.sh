#!/usr/bin/env bash
# A table of the paper from nothing, on one GPU node: preflight, environment, data, evaluation, and each cell's
# deviation from what is printed. Run again, it goes on.
#
#   bash scripts/reproduce.sh table1                                  # LLaVA-1.5-7B; `--list` names the others
#   DRY_RUN=1 bash scripts/reproduce.sh table2                        # the preflight and the plan only
#   MODEL=checkpoints/mine DATA=/data/eval BUDGETS=64 LIMIT=100 bash scripts/reproduce.sh table1
#
# Every path and size is a variable (`--list`). SETUP=0 leaves the environment as it is; else scripts/setup.sh makes it,
# whose variables (VENV, PYTHON, TORCH_BUILD, ...) work here too. Relative paths begin at the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PATH="$PWD/${VENV:-.venv}/bin:$PATH"
if [[ "${SETUP:-1}" != 0 && "${DRY_RUN:-0}" == 0 && " $* " != *" --"* ]]; then
  "${PYTHON:-python3}" -m llava.eval.reproduce "$@" --preflight
  bash scripts/setup.sh
fi
exec python3 -m llava.eval.reproduce "$@"

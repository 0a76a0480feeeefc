#!/usr/bin/env bash
# Makes the environment that every command of this repository runs in. Safe to repeat: a second run returns at once.
#
#   VENV         where it goes                         (default .venv)
#   PYTHON       the interpreter to make it from       (default python3; 3.11 or newer)
#   EXTRAS       extras of pyproject.toml to have too  (dev is always there, and what is there stays; e.g. train)
#   TORCH_BUILD  cpu | cuda | auto                     (default auto: cuda where nvidia-smi lists a GPU, else cpu)
#   TORCH_LINKS  page that lists the CPU builds        (default PyTorch's public one)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=${VENV:-.venv}
PYTHON=${PYTHON:-python3}
EXTRAS=$(tr -s ', ' '\n' <<<"dev,${EXTRAS:-},$(cat "$VENV/.extras" 2>/dev/null)" | sed '/^$/d' | sort -u | paste -sd, -)
TORCH_BUILD=${TORCH_BUILD:-auto}
TORCH_LINKS=${TORCH_LINKS:-https://download.pytorch.org/whl/cpu/torch/}

if [[ $TORCH_BUILD == auto ]]; then
  if nvidia-smi -L >/dev/null 2>&1; then TORCH_BUILD=cuda; else TORCH_BUILD=cpu; fi
fi
[[ $TORCH_BUILD == cpu || $TORCH_BUILD == cuda ]] || { echo "TORCH_BUILD=$TORCH_BUILD: use cpu, cuda or auto" >&2; exit 2; }

stamp=$VENV/.setup-stamp
want="$EXTRAS $TORCH_BUILD $PWD $(cat constraints.txt pyproject.toml | cksum)"
[[ -f $stamp && $(<"$stamp") == "$want" ]] && exit 0

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || { echo "$PYTHON is missing or older than 3.11; name a newer one: PYTHON=python3.12 $0" >&2; exit 1; }
echo "Setting up $VENV (extras: $EXTRAS; torch for $TORCH_BUILD): a few minutes, once."
"$PYTHON" -m venv "$VENV" \
  || { echo "Python's venv module is missing; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }

# Progress for a person, silence for a log. Byte-code is made on first import, of what is imported.
quiet=(); [[ -t 1 ]] || quiet=(-qq)
install() { "$VENV/bin/python" -m pip install ${quiet[@]+"${quiet[@]}"} --no-compile --constraint constraints.txt "$@"; }

if [[ -f $stamp && $(<"$stamp") != *" $TORCH_BUILD "* ]]; then
  "$VENV/bin/python" -m pip uninstall --quiet --yes torch  # pip takes 2.13.0+cpu for 2.13.0 and would keep it
fi
if [[ $TORCH_BUILD == cpu ]]; then
  # Where the page is not reachable pip goes on with the default registry's build.
  install --no-deps --timeout 20 --retries 1 --find-links "$TORCH_LINKS" torch
  case "$(uname) $("$VENV/bin/python" -c 'from importlib.metadata import version; print(version("torch"))')" in
    "Linux "*+cpu | Darwin*) ;;
    *) echo "Note: no CPU build at $TORCH_LINKS; the default torch follows, which is larger and works the same." >&2 ;;
  esac
fi
install --editable ".[$EXTRAS]"

if ! command -v c++ >/dev/null && ! command -v g++ >/dev/null && ! command -v clang++ >/dev/null; then
  echo "Note: no C++ compiler, so no torch.compile, and none of DeepSpeed's own operators (it builds them on first use;" \
    "needed on CPU and for offloading). LAUNCHER=python trains without. On Debian or Ubuntu: apt install g++" >&2
fi
echo "$EXTRAS" >"$VENV/.extras"
echo "$want" >"$stamp"

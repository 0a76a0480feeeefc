# Sourced by run_cpu.sh and run_gpu.sh: where results go, and how one benchmark is run. Variables, all optional:
#
#   PYTHON   interpreter; default .venv/bin/python
#   RESULTS  folder of all machines; default benchmarks/results
#   MACHINE  name of this machine's folder in it
#   PAGE     the page to remake; default docs/performance.md
#   LIMIT    seconds that one benchmark may take
#   TOTAL    seconds that all of a piece may take
#   ONLY     names of the results to make, separated by spaces; default all
PYTHON="${PYTHON:-.venv/bin/python}"
RESULTS="${RESULTS:-benchmarks/results}"
PAGE="${PAGE:-docs/performance.md}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false
failed=()
DEADLINE=$((SECONDS + TOTAL))

# run NAME SCRIPT FLAG...: writes NAME.json; one that fails is named at the end, and the others go on.
run() {
    local name="$1" script="$2"
    shift 2
    if [[ -n "${ONLY:-}" && " $ONLY " != *" $name "* ]]; then return; fi
    echo "== $name: $script $*"
    local start=$SECONDS
    rm -f "$RESULTS/$MACHINE/$name.json" # a benchmark that fails must not leave an older result behind
    if ! timeout "$((DEADLINE > SECONDS ? (LIMIT < DEADLINE - SECONDS ? LIMIT : DEADLINE - SECONDS) : 1))" "$PYTHON" "benchmarks/$script.py" "$@" --json "$RESULTS/$MACHINE/$name.json"; then
        failed+=("$name")
    fi
    echo "== $name: $((SECONDS - start)) s"
}

# finish: remakes the page and tells what failed.
finish() {
    "$PYTHON" benchmarks/performance_page.py --results "$RESULTS" --page "$PAGE" || failed+=(performance_page)
    if ((${#failed[@]})); then
        echo "failed: ${failed[*]}" >&2
        exit 1
    fi
}

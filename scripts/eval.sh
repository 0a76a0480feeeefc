#!/usr/bin/env bash
# Evaluates a checkpoint on a task of `llava eval --list`, or on several (pope,gqa); the scripts of v1_5/eval/ and
# v1_6/eval/ are links to it by LLaVA's names.
#
#   CKPT=checkpoints/my-llava COMPRESSION="none visionzip:54+10" CUDA_VISIBLE_DEVICES=0,1 bash scripts/eval.sh pope
#
# TASKS=... takes the place of the task: mmmu_val_official asks with MMMU's own prompt, seed_image images only, sqa_full
# all of ScienceQA, textvqa_no_ocr without OCR tokens; vizwiz_val and vqav2_val are scored here, not by a server.
# Each GPU of CUDA_VISIBLE_DEVICES gets a process, or NPROC says how many. Further flags of llava.eval follow the
# script's name. Judged tasks are graded where JUDGE_URL and JUDGE_MODEL are set, the key in LLAVA_JUDGE_KEY. Relative
# paths begin at the repository. DRY_RUN=1 shows the commands only.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CKPT="${CKPT:?a checkpoint, local or of the Hub}"
[[ "${1:--}" == -* ]] || { TASKS="${TASKS:-$1}"; shift; }
TASKS="${TASKS:?a task of llava eval --list, or several separated by commas}"
OUTPUT="${OUTPUT:-runs/eval/$(basename "$CKPT")}"
IFS=, read -ra GPUS <<< "${CUDA_VISIBLE_DEVICES:-0}"
NPROC="${NPROC:-${#GPUS[@]}}"

case "$NPROC" in
  1) RUN=(python -m llava.eval) ;;
  *) RUN=(torchrun --standalone --nproc_per_node "$NPROC" -m llava.eval) ;;
esac

read -rd '' -a BUDGETS <<< "${COMPRESSION:-}" || true  # it ends at the text's end, which read calls a failure
COMPRESSIONS=()
for budget in ${BUDGETS[@]+"${BUDGETS[@]}"}; do COMPRESSIONS+=(--compression "$budget"); done

# Runs a command, or shows it under DRY_RUN, quoted for a shell.
run() { if [[ "${DRY_RUN:-0}" != 0 ]]; then printf '%q ' "$@"; echo; else "$@"; fi; }

run "${RUN[@]}" \
    --model-path "$CKPT" \
    ${BASE:+--model-base "$BASE"} \
    --tasks "$TASKS" \
    ${COMPRESSIONS[@]+"${COMPRESSIONS[@]}"} \
    ${DATA:+--data-root "$DATA"} \
    ${SOURCE:+--data-source "$SOURCE"} \
    ${CONV_MODE:+--conv-mode "$CONV_MODE"} \
    ${DTYPE:+--dtype "$DTYPE"} \
    ${BATCH:+--batch-size "$BATCH"} \
    ${LIMIT:+--limit "$LIMIT"} \
    --output-dir "$OUTPUT" \
    "$@"

[[ -n "${JUDGE_URL:-}" ]] || exit 0
run python -m llava.eval.judge "$OUTPUT" \
    --judge-url "$JUDGE_URL" \
    --judge-model "${JUDGE_MODEL:?the judge, as JUDGE_URL calls it}" \
    ${JUDGE_RUNS:+--judge-runs "$JUDGE_RUNS"} \
    ${DATA:+--data-root "$DATA"} \
    ${SOURCE:+--data-source "$SOURCE"}

#!/usr/bin/env bash
# From a tuned run to a checkpoint on the Hub: export, evaluate a smoke set, card, verify, push. See docs/release.md.
#
#   COMPRESSION="none visionzip:54+10" DATASET=liuhaotian/LLaVA-Instruct-150K \
#       bash scripts/release.sh checkpoints/llava-v1.5-7b-visionzip-64 me/llava-v1.5-7b-visionzip-64
#
# RUN is anything that load_pretrained_model loads. DRY_RUN=1 does everything but send. Interrupted, the same command
# goes on: what is answered, and what the Hub has got, is not made again. An edited card stops it; OVERWRITE=1 replaces
# the card. Variables of scripts/eval.sh (DATA, SOURCE, BATCH, DTYPE, CUDA_VISIBLE_DEVICES, ...) work here too. Relative
# paths begin at the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

RUN="${1:?the folder of a run, or a checkpoint}"
REPO="${2:?ORG/NAME on the Hub}"
[[ "${DRY_RUN:-0}" != 0 ]] || DRY_RUN=        # DRY_RUN=0 sends
FOLDER="${FOLDER:-runs/release/${REPO##*/}}"  # all that is made
EXPORT="${EXPORT:-$FOLDER/export}"            # what is sent
EVAL="${EVAL:-$FOLDER/eval}"                  # answers and results.json of the smoke set
FORMAT="${FORMAT:-hf}"                        # hf, llava, projector
TASKS="${TASKS-pope}"                         # the smoke set; TASKS= evaluates nothing
LIMIT="${LIMIT-100}"                          # questions of each task; LIMIT= asks all
EXPORT_BASE="${EXPORT_BASE:-}"                # FORMAT=projector: where the base lies, if not where its config says
MODEL_BASE="${EXPORT_BASE:-${BASE:-}}"
RESULTS="${RESULTS-${TASKS:+$EVAL/results.json}}"  # a full evaluation of RUN, to be used in the place of the smoke set's

python -m llava.hub.export "$RUN" --to "$FORMAT" --output "$EXPORT" --overwrite ${BASE:+--model-base "$BASE"}
[[ -z "$TASKS" ]] ||
    env -u DRY_RUN -u JUDGE_URL CKPT="$EXPORT" BASE="$EXPORT_BASE" TASKS="$TASKS" LIMIT="$LIMIT" OUTPUT="$EVAL" \
        bash scripts/eval.sh
python -m llava.hub.card "$RUN" --output "$EXPORT" --repo "$REPO" \
    ${RESULTS:+--results "$RESULTS"} \
    ${VANILLA:+--vanilla-results "$VANILLA"} \
    ${PAPER:+--paper "$PAPER"} \
    ${LICENSE:+--license "$LICENSE"} \
    ${MODEL_BASE:+--model-base "$MODEL_BASE"} \
    ${BASE_MODEL:+--base-model "$BASE_MODEL"} \
    ${DATASET:+--dataset "$DATASET"} \
    ${DATA_NOTE:+--data-note "$DATA_NOTE"} \
    ${SAMPLE_IMAGE:+--sample-image "$SAMPLE_IMAGE"} \
    ${SAMPLE_QUESTION:+--sample-question "$SAMPLE_QUESTION"} \
    ${OVERWRITE:+--overwrite}
python -m llava.hub.verify "$EXPORT" ${EXPORT_BASE:+--model-base "$EXPORT_BASE"}
exec python -m llava.hub.push "$EXPORT" --repo "$REPO" \
    ${DRY_RUN:+--dry-run} \
    ${PRIVATE:+--private} \
    ${REVISION:+--revision "$REVISION"} \
    ${MESSAGE:+--message "$MESSAGE"} \
    ${EXPORT_BASE:+--model-base "$EXPORT_BASE"}

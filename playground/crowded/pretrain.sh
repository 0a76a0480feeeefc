#!/usr/bin/env bash
# Makes the LLaVA of a crowded world from nothing: data, vision tower, language model, LLaVA's stage 1 and stage 2.
# Every part that is done is skipped, and an interrupted part goes on from its last checkpoint. The last two stages have
# variables of their own: ../pretraining/stages.sh.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
PYTHON="${PYTHON:-python}"
WORLD="${WORLD:-first}"                                   # first or second
DATA="${DATA:-$HERE/data/$WORLD}"
WORK="${WORK:-$HERE/work-$WORLD}"                         # everything in between
MODEL="${MODEL:-$HERE/model/$WORLD}"                      # the result
SEED="${SEED:-0}"                                          # of the training; the published second world has 1
TOWER_STEPS="${TOWER_STEPS:-2000}"
LLM_PLAN="${LLM_PLAN:-captions:900,questions:700,talks:400}"   # lessons and their steps
TRAIN_SAMPLES="${TRAIN_SAMPLES:-10000}"
SCENES="${SCENES:-500}"                                   # held out, for dev and for test
QUESTIONS="${QUESTIONS:-3500}"                            # of dev, and of test
ALIGN_SAMPLES="${ALIGN_SAMPLES:-10000}"
export EPOCHS="${EPOCHS:-4}"                              # of stage 2
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
export PYTHONPATH="$HERE/../..${PYTHONPATH:+:$PYTHONPATH}"

"$PYTHON" -m playground.crowded.make_data --world "$WORLD" --output "$DATA" --train "$TRAIN_SAMPLES" \
  --align "$ALIGN_SAMPLES" --scenes "$SCENES" --questions "$QUESTIONS"
"$PYTHON" -m playground.crowded.pretrain_tower --world "$WORLD" --output "$WORK" --seed "$SEED" --steps "$TOWER_STEPS"
"$PYTHON" -m playground.crowded.pretrain_llm --world "$WORLD" --output "$WORK" --seed "$SEED" --plan "$LLM_PLAN"
PYTHON="$PYTHON" DATA="$DATA" WORK="$WORK" SEED="$SEED" bash "$HERE/../pretraining/stages.sh"
"$PYTHON" -m playground.crowded.publish --world "$WORLD" --work "$WORK" --data "$DATA" --output "$MODEL"

#!/usr/bin/env bash
# Makes the embedded tiny LLaVA from nothing: data, vision tower, language model, LLaVA's stage 1 and stage 2.
# Every part that is done is skipped, and an interrupted part goes on from its last checkpoint. The last two stages have
# variables of their own: ../pretraining/stages.sh.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
PYTHON="${PYTHON:-python}"
DATA="${DATA:-$HERE/data}"
TOWER_KIND="${TOWER_KIND:-clip}"                          # clip, or siglip: a tower without a CLS token
OF_KIND="${TOWER_KIND#clip}"
OF_KIND="${OF_KIND:+-$OF_KIND}"                           # of the folders' names: none, or -siglip
WORK="${WORK:-$HERE/work$OF_KIND}"                        # everything in between
MODEL="${MODEL:-$HERE/model$OF_KIND}"                     # the result
SEED="${SEED:-0}"
TOWER_SCALE="${TOWER_SCALE:-1.0}"                         # multiplies the tower's steps
LLM_PLAN="${LLM_PLAN:-questions:300,talks:300}"           # lessons and their steps
TRAIN_SAMPLES="${TRAIN_SAMPLES:-10000}"
SCENES="${SCENES:-500}"                                   # held out: scenes, questions, yes/no questions
VQA="${VQA:-2000}"
POPE="${POPE:-1000}"
ALIGN_SAMPLES="${ALIGN_SAMPLES:-10000}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
export PYTHONPATH="$HERE/../..${PYTHONPATH:+:$PYTHONPATH}"

"$PYTHON" "$HERE/make_data.py" --output "$DATA" --seed "$SEED" --train "$TRAIN_SAMPLES" --align "$ALIGN_SAMPLES" \
  --scenes "$SCENES" --vqa "$VQA" --pope "$POPE"
"$PYTHON" "$HERE/pretrain_tower.py" --output "$WORK" --kind "$TOWER_KIND" --seed "$SEED" --scale "$TOWER_SCALE"
"$PYTHON" "$HERE/pretrain_llm.py" --output "$WORK" --seed "$SEED" \
  --plan "$LLM_PLAN"
PYTHON="$PYTHON" DATA="$DATA" WORK="$WORK" SEED="$SEED" bash "$HERE/../pretraining/stages.sh"
"$PYTHON" "$HERE/publish.py" --work "$WORK" --data "$DATA" --output "$MODEL"

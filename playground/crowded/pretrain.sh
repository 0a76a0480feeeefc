#!/usr/bin/env bash
# Makes the LLaVA of a crowded world from nothing: data, vision tower, language model, LLaVA's stage 1 and stage 2.
# Every part that is done is skipped, and an interrupted part goes on from its last checkpoint.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
PYTHON="${PYTHON:-python}"
WORLD="${WORLD:-first}"                                   # first or second
DATA="${DATA:-$HERE/data/$WORLD}"
WORK="${WORK:-$HERE/work/$WORLD}"                         # everything in between
MODEL="${MODEL:-$HERE/model/$WORLD}"                      # the result
SEED="${SEED:-0}"
TOWER_STEPS="${TOWER_STEPS:-2000}"
LLM_STEPS="${LLM_STEPS:-2000}"
LLM_SHORT_STEPS="${LLM_SHORT_STEPS:-1400}"                # of them, those of short talks
TRAIN_SAMPLES="${TRAIN_SAMPLES:-10000}"
SCENES="${SCENES:-500}"                                   # held out, for dev and for test
QUESTIONS="${QUESTIONS:-3500}"                            # of dev, and of test
ALIGN_EPOCHS="${ALIGN_EPOCHS:-1}"
ALIGN_LR="${ALIGN_LR:-3e-3}"
ALIGN_SAMPLES="${ALIGN_SAMPLES:-10000}"
EPOCHS="${EPOCHS:-3}"
LR="${LR:-1e-3}"
BATCH="${BATCH:-32}"                                      # over all processes
PROCESSES="${PROCESSES:-2}"                               # of one core each: faster than threads for so small a model
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
export PYTHONPATH="$HERE/../..${PYTHONPATH:+:$PYTHONPATH}"

"$PYTHON" -m playground.crowded.make_data --world "$WORLD" --output "$DATA" --seed "$SEED" --train "$TRAIN_SAMPLES" \
  --align "$ALIGN_SAMPLES" --scenes "$SCENES" --questions "$QUESTIONS"
"$PYTHON" -m playground.crowded.pretrain_tower --world "$WORLD" --output "$WORK" --seed "$SEED" --steps "$TOWER_STEPS"
"$PYTHON" -m playground.crowded.pretrain_llm --world "$WORLD" --output "$WORK" --seed "$SEED" \
  --steps "$LLM_STEPS" --short-steps "$LLM_SHORT_STEPS"

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
TRAIN=("$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$PROCESSES" -m llava.train.train_mem)
COMMON=(
  --model_name_or_path "$WORK/llm" --vision_tower "$WORK/tower" --version v1
  --image_folder "$DATA/images" --image_aspect_ratio pad
  --mm_projector_type mlp2x_gelu --mm_vision_select_layer -2
  --global_batch_size "$BATCH" --per_device_train_batch_size "$((BATCH / PROCESSES))"
  --seed "$SEED" --lr_scheduler_type cosine --warmup_ratio 0.03
  --weight_decay 0. --max_grad_norm 1.0 --adam_beta2 0.98 --bf16 True --use_cpu True
  --save_strategy steps --save_steps 100 --save_total_limit 1 --logging_steps 10 --report_to none
)
if [[ ! -f $WORK/align/mm_projector.safetensors ]]; then
  "${TRAIN[@]}" --stage align --data_path "$DATA/align.json" --output_dir "$WORK/align" \
    --num_train_epochs "$ALIGN_EPOCHS" --learning_rate "$ALIGN_LR" "${COMMON[@]}"
fi
if [[ ! -f $WORK/finetune/model.safetensors ]]; then
  "${TRAIN[@]}" --stage finetune --data_path "$DATA/train.json" --output_dir "$WORK/finetune" \
    --pretrain_mm_mlp_adapter "$WORK/align/mm_projector.safetensors" \
    --num_train_epochs "$EPOCHS" --learning_rate "$LR" "${COMMON[@]}"
fi
"$PYTHON" -m playground.crowded.publish --world "$WORLD" --work "$WORK" --data "$DATA" --output "$MODEL"

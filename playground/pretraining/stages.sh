#!/usr/bin/env bash
# LLaVA's stage 1 and stage 2 for a small model whose tower and language model are in WORK; what is done is skipped.
set -euo pipefail

PYTHON="${PYTHON:-python}"
DATA="${DATA:?the folder with train.json, align.json and images}"
WORK="${WORK:?the folder with tower and llm}"
SEED="${SEED:-0}"
ALIGN_EPOCHS="${ALIGN_EPOCHS:-1}"
ALIGN_LR="${ALIGN_LR:-3e-3}"
EPOCHS="${EPOCHS:-3}"
LR="${LR:-1e-3}"
BATCH="${BATCH:-32}"                                      # over all processes
PROCESSES="${PROCESSES:-2}"                               # of one core each: faster than threads for so small a model
SAVE_STEPS="${SAVE_STEPS:-200}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

TRAIN=("$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$PROCESSES" -m llava.train.train_mem)
COMMON=(
  --model_name_or_path "$WORK/llm" --vision_tower "$WORK/tower" --version v1
  --image_folder "$DATA/images" --image_aspect_ratio pad
  --mm_projector_type mlp2x_gelu --mm_vision_select_layer -2
  --global_batch_size "$BATCH" --per_device_train_batch_size "$((BATCH / PROCESSES))"
  --seed "$SEED" --lr_scheduler_type cosine --warmup_ratio 0.03
  --weight_decay 0. --max_grad_norm 1.0 --adam_beta2 0.98 --bf16 True --use_cpu True
  --save_strategy steps --save_steps "$SAVE_STEPS" --save_total_limit 1 --logging_steps 10 --report_to none
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

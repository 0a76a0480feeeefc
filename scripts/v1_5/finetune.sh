#!/usr/bin/env bash
# LLaVA-1.5, stage 2: projector and language model learn to follow visual instructions; the vision tower stays frozen.
# Everything can be set from the environment; further flags of train.py follow the script's name.
set -euo pipefail

LLM="${LLM:-lmsys/vicuna-7b-v1.5}"
TOWER="${TOWER:-openai/clip-vit-large-patch14-336}"
PROJECTOR="${PROJECTOR:-checkpoints/llava-v1.5-7b-pretrain}"   # what pretrain.sh made, or LLaVA's mm_projector.bin
DATA="${DATA:-playground/data/llava_v1_5_mix665k.json}"
IMAGES="${IMAGES:-playground/data}"
OUTPUT="${OUTPUT:-checkpoints/llava-v1.5-7b}"
COMPRESSION="${COMPRESSION:-none}"                        # visionzip:54+10 trains with VisionZip
SEED="${SEED:-42}"
LR="${LR:-2e-5}"
EPOCHS="${EPOCHS:-1}"
WARMUP="${WARMUP:-0.03}"
SCHEDULER="${SCHEDULER:-cosine}"
WEIGHT_DECAY="${WEIGHT_DECAY:-0.}"
GLOBAL_BATCH="${GLOBAL_BATCH:-128}"                       # over all GPUs; gradients are accumulated as needed
BATCH="${BATCH:-16}"                                      # on one GPU at a time
MAX_LENGTH="${MAX_LENGTH:-2048}"
VERSION="${VERSION:-v1}"
ASPECT="${ASPECT:-pad}"
BF16="${BF16:-True}"
CPU="${CPU:-False}"
CHECKPOINTING="${CHECKPOINTING:-True}"
WORKERS="${WORKERS:-4}"
SAVE_STEPS="${SAVE_STEPS:-1000}"
SAVE_LIMIT="${SAVE_LIMIT:-1}"                             # checkpoints that are kept
LOG_STEPS="${LOG_STEPS:-1}"
REPORT_TO="${REPORT_TO:-none}"
LAUNCHER="${LAUNCHER:-deepspeed}"                         # deepspeed, torchrun, or python (one process, no DeepSpeed)
LAUNCHER_ARGS="${LAUNCHER_ARGS:-}"
DEEPSPEED_CONFIG="${DEEPSPEED_CONFIG:-$(dirname "$0")/../zero2.json}"

# shellcheck disable=SC2206  # LAUNCHER_ARGS is several words on purpose
case "$LAUNCHER" in
  deepspeed) RUN=(deepspeed $LAUNCHER_ARGS --module llava.train.train_mem --deepspeed "$DEEPSPEED_CONFIG") ;;
  torchrun) RUN=(torchrun ${LAUNCHER_ARGS:---standalone --nproc_per_node gpu} -m llava.train.train_mem --deepspeed "$DEEPSPEED_CONFIG") ;;
  python) RUN=(python $LAUNCHER_ARGS -m llava.train.train_mem) ;;
  *) echo "LAUNCHER must be deepspeed, torchrun or python, not '$LAUNCHER'" >&2; exit 2 ;;
esac

exec "${RUN[@]}" \
    --stage finetune \
    --model_name_or_path "$LLM" \
    --vision_tower "$TOWER" \
    --pretrain_mm_mlp_adapter "$PROJECTOR" \
    --compression "$COMPRESSION" \
    --version "$VERSION" \
    --data_path "$DATA" \
    --image_folder "$IMAGES" \
    --image_aspect_ratio "$ASPECT" \
    --group_by_modality_length True \
    --seed "$SEED" \
    --output_dir "$OUTPUT" \
    --num_train_epochs "$EPOCHS" \
    --global_batch_size "$GLOBAL_BATCH" \
    --per_device_train_batch_size "$BATCH" \
    --learning_rate "$LR" \
    --lr_scheduler_type "$SCHEDULER" \
    --warmup_ratio "$WARMUP" \
    --weight_decay "$WEIGHT_DECAY" \
    --model_max_length "$MAX_LENGTH" \
    --bf16 "$BF16" \
    --use_cpu "$CPU" \
    --gradient_checkpointing "$CHECKPOINTING" \
    --dataloader_num_workers "$WORKERS" \
    --save_strategy steps \
    --save_steps "$SAVE_STEPS" \
    --save_total_limit "$SAVE_LIMIT" \
    --logging_steps "$LOG_STEPS" \
    --report_to "$REPORT_TO" \
    "$@"

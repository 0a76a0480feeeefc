#!/usr/bin/env bash
# VisionZip's projector tuning: the projector of a released LLaVA learns, on a tenth of LLaVA's stage 2 data, to speak
# for fewer tokens; all else is frozen. The paper did not publish its settings: the values below are ours, those of
# LLaVA's stage 2. Everything can be set from the environment; further flags of train.py follow the script's name.
#
#   CKPT=liuhaotian/llava-v1.5-7b COMPRESSION=visionzip:54+10 bash scripts/v1_5/visionzip_tune.sh
set -euo pipefail

CKPT="${CKPT:-liuhaotian/llava-v1.5-7b}"                  # a LLaVA checkpoint, in LLaVA's or transformers' format
DATA="${DATA:-playground/data/llava_v1_5_mix665k.json}"
IMAGES="${IMAGES:-playground/data}"
COMPRESSION="${COMPRESSION:-visionzip:54+10}"             # 192 tokens: 162+30, 128: 108+20, 64: 54+10
OUTPUT="${OUTPUT:-checkpoints/llava-v1.5-${COMPRESSION//[:+]/-}-projector}"
FRACTION="${FRACTION:-0.1}"
SEED="${SEED:-42}"                                        # draws the subset and orders it
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
BF16="${BF16:-True}"                                      # False for cards without bfloat16: add --fp16 True
CPU="${CPU:-False}"
CHECKPOINTING="${CHECKPOINTING:-True}"                    # recompute activations: less memory, a third more time
WORKERS="${WORKERS:-4}"                                   # data loading processes of each GPU
SAVE_STEPS="${SAVE_STEPS:-250}"                           # an interrupted run goes on from the last one
SAVE_LIMIT="${SAVE_LIMIT:-1}"                             # checkpoints that are kept
LOG_STEPS="${LOG_STEPS:-1}"
REPORT_TO="${REPORT_TO:-none}"                            # wandb, tensorboard
LAUNCHER="${LAUNCHER:-deepspeed}"                         # deepspeed, torchrun, or python (one process, no DeepSpeed)
LAUNCHER_ARGS="${LAUNCHER_ARGS:-}"                        # e.g. "--num_gpus 4", "--hostfile hosts"
DEEPSPEED_CONFIG="${DEEPSPEED_CONFIG:-$(dirname "$0")/../zero2.json}"

# shellcheck disable=SC2206  # LAUNCHER_ARGS is several words on purpose
case "$LAUNCHER" in
  deepspeed) RUN=(deepspeed $LAUNCHER_ARGS --module llava.train.train_mem --deepspeed "$DEEPSPEED_CONFIG") ;;
  torchrun) RUN=(torchrun ${LAUNCHER_ARGS:---standalone --nproc_per_node gpu} -m llava.train.train_mem --deepspeed "$DEEPSPEED_CONFIG") ;;
  python) RUN=(python $LAUNCHER_ARGS -m llava.train.train_mem) ;;
  *) echo "LAUNCHER must be deepspeed, torchrun or python, not '$LAUNCHER'" >&2; exit 2 ;;
esac

exec "${RUN[@]}" \
    --stage projector \
    --model_name_or_path "$CKPT" \
    --compression "$COMPRESSION" \
    --version "$VERSION" \
    --data_path "$DATA" \
    --image_folder "$IMAGES" \
    --image_aspect_ratio "$ASPECT" \
    --data_fraction "$FRACTION" \
    --data_seed "$SEED" \
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

#!/usr/bin/env bash
# Trains a recipe on a machine; the scripts of v1_5/, v1_6/ and slurm/ only choose the recipe.
#
#   RECIPE=configs/recipes/llava-v1.5-7b-visionzip-64.yaml HARDWARE=configs/hardware/8x24gb.yaml bash scripts/train.sh
#
# A variable below that is set takes the place of what recipe and hardware say; further flags of train.py follow the
# script's name and count most. Relative paths begin at the repository. DRY_RUN=1 shows the command.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

RECIPE="${RECIPE:?name a file of configs/recipes}"
LAUNCHER="${LAUNCHER:-deepspeed}"      # deepspeed, torchrun, or python (one process, no DeepSpeed)
LAUNCHER_ARGS="${LAUNCHER_ARGS:-}"     # e.g. "--num_gpus 4", "--hostfile hosts"
# A compression that is not the recipe's is trained in a folder of its own.
OUTPUT="${OUTPUT:-${COMPRESSION:+checkpoints/$(basename "$RECIPE" .yaml)-${COMPRESSION//[:+]/-}}}"

# shellcheck disable=SC2206  # LAUNCHER_ARGS is several words on purpose
case "$LAUNCHER" in
  deepspeed) RUN=(deepspeed $LAUNCHER_ARGS --module llava.train.train_mem) MACHINE=8x80gb ;;
  torchrun)
    RUN=(torchrun ${LAUNCHER_ARGS:---standalone --nproc_per_node gpu} -m llava.train.train_mem) MACHINE=8x80gb ;;
  python) RUN=(python $LAUNCHER_ARGS -m llava.train.train_mem) MACHINE=1x80gb ;;
  *) echo "LAUNCHER must be deepspeed, torchrun or python, not '$LAUNCHER'" >&2; exit 2 ;;
esac

COMMAND=("${RUN[@]}"
    --recipe "$RECIPE" "${HARDWARE:-configs/hardware/$MACHINE.yaml}"
    ${DEEPSPEED_CONFIG:+--deepspeed "$DEEPSPEED_CONFIG"}
    ${CKPT:+--model_name_or_path "$CKPT"}
    ${LLM:+--model_name_or_path "$LLM"}
    ${TOWER:+--vision_tower "$TOWER"}
    ${PROJECTOR:+--pretrain_mm_mlp_adapter "$PROJECTOR"}
    ${COMPRESSION:+--compression "$COMPRESSION"}
    ${VERSION:+--version "$VERSION"}
    ${DATA:+--data_path "$DATA"}
    ${IMAGES:+--image_folder "$IMAGES"}
    ${ASPECT:+--image_aspect_ratio "$ASPECT"}
    ${FRACTION:+--data_fraction "$FRACTION"}
    ${SEED:+--seed "$SEED" --data_seed "$SEED"}
    ${EVAL_DATA:+--eval_data_path "$EVAL_DATA"}
    ${OUTPUT:+--output_dir "$OUTPUT"}
    ${EPOCHS:+--num_train_epochs "$EPOCHS"}
    ${GLOBAL_BATCH:+--global_batch_size "$GLOBAL_BATCH"}
    ${BATCH:+--per_device_train_batch_size "$BATCH"}
    ${LR:+--learning_rate "$LR"}
    ${SCHEDULER:+--lr_scheduler_type "$SCHEDULER"}
    ${WARMUP:+--warmup_ratio "$WARMUP"}
    ${WEIGHT_DECAY:+--weight_decay "$WEIGHT_DECAY"}
    ${MAX_LENGTH:+--model_max_length "$MAX_LENGTH"}
    ${BF16:+--bf16 "$BF16"}
    ${FP16:+--fp16 "$FP16"}
    ${CPU:+--use_cpu "$CPU"}
    ${CHECKPOINTING:+--gradient_checkpointing "$CHECKPOINTING"}
    ${WORKERS:+--dataloader_num_workers "$WORKERS"}
    ${SAVE_STEPS:+--save_steps "$SAVE_STEPS"}
    ${SAVE_LIMIT:+--save_total_limit "$SAVE_LIMIT"}
    ${LOG_STEPS:+--logging_steps "$LOG_STEPS"}
    ${REPORT_TO:+--report_to "$REPORT_TO"}
    "$@")

if [[ -n "${DRY_RUN:-}" ]]; then
  LINE="$(printf '%q ' "${COMMAND[@]}")"
  echo "${LINE% }"
  exit
fi
exec "${COMMAND[@]}"

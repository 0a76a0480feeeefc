#!/usr/bin/env bash
# Every benchmark on one GPU, in pieces of under nine minutes, then docs/performance.md. Nothing is downloaded; neither
# DeepSpeed nor flash attention is needed.
#
#   bash benchmarks/run_gpu.sh           # all pieces
#   PIECE=3 bash benchmarks/run_gpu.sh   # one of 1 to 6
#
# Variables: benchmarks/common.sh; flags of a benchmark: VISION, SIGLIP, COMPRESSOR, ... below.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
LIMIT="${LIMIT:-530}" TOTAL="${TOTAL:-530}"
source benchmarks/common.sh
MACHINE="${MACHINE:-$("$PYTHON" -c 'import torch; print(torch.cuda.get_device_name().lower().replace(" ", "-"))')}"

# Whether a piece is to run; its time begins now.
piece() {
    DEADLINE=$((SECONDS + TOTAL))
    [[ -z "${PIECE:-}" || "$PIECE" == "$1" ]]
}

if piece 1; then
    run cost cost ${COST:-}
    run vision vision ${VISION:---batch 1 8 40}
    run vision-siglip vision ${SIGLIP:---tower siglip --batch 1 8 40}
    run compressor compressor ${COMPRESSOR:-}
fi
if piece 2; then
    run prefill-1.5 prefill ${PREFILL_15:---model 1.5-7b 1.5-13b}
fi
if piece 3; then
    run prefill-next prefill ${PREFILL_NEXT:---model next-7b next-13b}
fi
if piece 4; then
    run generate generate ${GENERATE:-}
    run eval_throughput eval_throughput ${EVAL_THROUGHPUT:-}
fi
if piece 5; then
    run train_throughput train_throughput ${TRAIN_THROUGHPUT:-}
    run serving serving ${SERVING:---models 1.5-7b --device cuda --clients 1 8 64 --new-tokens 16 --shares 1 0.1}
fi
if piece 6; then
    run memory memory ${MEMORY:-}
    run image_preparation image_preparation ${IMAGE_PREPARATION:-}
    run video video ${VIDEO:-}
    run store store ${STORE:-}
    run startup startup ${STARTUP:-}
    run loading loading ${LOADING:-}
fi
finish

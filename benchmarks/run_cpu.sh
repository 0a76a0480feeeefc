#!/usr/bin/env bash
# Every benchmark on a CPU, in under ten minutes on two cores, then docs/performance.md. Nothing is downloaded.
#
#   bash benchmarks/run_cpu.sh           # all, the vision tower being CLIP
#   PIECE=2 bash benchmarks/run_cpu.sh   # the vision tower SigLIP, as long again
#
# Variables: benchmarks/common.sh; flags of a benchmark: VISION, SIGLIP, COMPRESSOR, ... below.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
MACHINE="${MACHINE:-cpu}"
LIMIT="${LIMIT:-595}" TOTAL="${TOTAL:-595}"
export CUDA_VISIBLE_DEVICES=""
source benchmarks/common.sh

if [[ "${PIECE:-1}" == 2 ]]; then
    run vision-siglip vision ${SIGLIP:---tower siglip --batch 1 8 --warmup 0 --repeats 4 2}
    finish
    exit
fi
run cost cost ${COST:-}
run vision vision ${VISION:---batch 1 8 --warmup 0 --repeats 4 2}
run compressor compressor ${COMPRESSOR:---batches 1 8 --largest-tower-batch 1 --repeats 7}
run prefill prefill ${PREFILL:---repeats 2}
run generate generate ${GENERATE:---requests 32 --repeats 2}
run eval_throughput eval_throughput ${EVAL_THROUGHPUT:---images 2 --repeats 2}
run memory memory ${MEMORY:-}
run image_preparation image_preparation ${IMAGE_PREPARATION:-}
run video video ${VIDEO:---warmup 0 --repeats 3}
run store store ${STORE:-}
run serving serving ${SERVING:---models tiny --clients 8 64 --new-tokens 16 128 --shares 0.1}
run startup startup ${STARTUP:---repeats 3}
run loading loading ${LOADING:---gigabytes 0.8}
run train_throughput train_throughput ${TRAIN_THROUGHPUT:---samples 16 --warmup 0 --repeats 2}
finish

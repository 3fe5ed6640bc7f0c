#!/usr/bin/env bash
# What to measure in the first ten minutes on a GPU, the most valuable first. Every step is capped, and what it has found
# is written at once.
#
#   benchmarks/on_gpu.sh                                # all steps, in the order below
#   benchmarks/on_gpu.sh dilated resume                 # some of them
#   TINY=1 JAX_PLATFORMS=cpu benchmarks/on_gpu.sh       # that it runs, not how fast, and without caps
#
# Variables: OUT (benchmarks/results) receives on_gpu_DEVICE.md, on_gpu_DEVICE.log and traces; BUDGET (570) seconds in all;
# PYTHON (python3) has JAX for the GPU and, for the comparison, PyTorch, torchvision and segmentation-models-pytorch. Without
# a network, put wheels of the packages that it lacks into WHEELS (.wheels): they are unpacked for this run alone.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} out=${OUT:-benchmarks/results}
if test -n "${TINY:-}"; then
  budget=${BUDGET:-3600} tiny=--tiny quick=--quick labels='--images 2 --batch 2' scale=smoke
else
  budget=${BUDGET:-570} tiny='' quick='' labels='--images 1000' scale=scale=paper
fi
place=$(mktemp -d) && trap 'rm -rf "$place"' EXIT
mkdir -p "$out"
out=$(cd "$out" && pwd)

export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
wheels=${WHEELS:-.wheels}
if test -d "$wheels"; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$place/site" "$wheels"/*.whl || exit 2
  PYTHONPATH=$place/site:$PYTHONPATH
fi
# Steps share compiled programs, and a process leaves the memory of the GPU to the next.
export JAX_COMPILATION_CACHE_DIR=$place/xla JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
export XLA_PYTHON_CLIENT_PREALLOCATE=false

"$python" benchmarks/on_gpu.py machine $tiny >"$place/machine" || exit 2
device=$(sed -n '1s/^# \(.*\): .*/\1/p' "$place/machine" | tr 'A-Z ' 'a-z_' | tr -cd 'a-z0-9_-')
report=$out/on_gpu_$device.md log=$out/on_gpu_$device.log
cp "$place/machine" "$report"
: >"$log"

# NAME SECONDS COMMAND...: run a command for at most so many seconds, or those that are left.
capped() {
  local name=$1 cap=$2 left=$((budget - SECONDS)) start=$SECONDS status
  shift 2
  test -z "$tiny" || cap=$left
  if ((left < 15)); then
    echo "$name: not run, for want of time" | tee -a "$report"
    return 1
  fi
  echo "== $name, after $SECONDS s" | tee -a "$log"
  timeout -k 5 $((cap < left ? cap : left)) "$@" >>"$report" 2>"$place/stderr"
  status=$?
  cat "$place/stderr" >>"$log"
  if ((status)); then # the medians that a comparison has told so far, or what went wrong
    printf '\n%s ended with %d after %d s:\n\n```\n' "$name" $status $((SECONDS - start)) >>"$report"
    { grep 'round [0-9]* of' "$place/stderr" || tail -n 3 "$place/stderr"; } >>"$report"
    printf '```\n' >>"$report"
  fi
  echo >>"$report"
  return $status
}

# Steps of a training beside PyTorch's. One process a side; each waits for the device once in twenty steps.
compare() {
  local name=$1 cap=$2 model=$3 sides=$4
  capped "$name" "$cap" "$python" benchmarks/training_step.py "$model" --rounds 1 --steps 20 --only "$sides" $quick
}

run() {
  case $1 in
    deeplab) compare "$1" 150 deeplabv3plus_resnet18 'ours|compiled' ;;
    densenet) compare "$1" 240 densenet121 'ours|compiled' ;;
    irnet)
      capped "$1" 60 "$python" benchmarks/on_gpu.py paths $tiny
      capped "$1" 100 "$python" benchmarks/on_gpu.py programs irnet walk $tiny
      ;;
    gradcam) capped "$1" 90 "$python" benchmarks/on_gpu.py programs gradcam $tiny ;;
    labels) capped "$1" 90 "$python" benchmarks/pseudo_labelling.py $labels ;;
    dilated) capped "$1" 60 "$python" benchmarks/on_gpu.py dilated $tiny ;;
    trace)
      capped "$1" 60 "$python" benchmarks/on_gpu.py trace deeplab "$place/trace" $tiny && {
        tar -C "$place" -czf "$out/on_gpu_${device}_trace.tar.gz" trace
        capped "$1" 30 "$python" benchmarks/trace_summary.py "$place/trace"
      }
      ;;
    resume) capped "$1" 180 "$python" benchmarks/on_gpu.py resume $tiny ;;
    moco) capped "$1" 90 "$python" benchmarks/on_gpu.py programs moco boundaries inference $tiny ;;
    eager) compare "$1" 90 deeplabv3plus_resnet18 'PyTorch(, channels_last)?$' ;;
    main)
      capped "$1" "$budget" "$python" launch.py --workdir="$place/work" --config.phantom.size=320 \
        --config=configs/semi.py:p=0.9,classifier_start=random,encoder_start=random,$scale
      cat "$place"/work/runs/*/report.md >>"$report"
      ;;
    *)
      echo "error: $1 is none of: $steps" >&2
      exit 2
      ;;
  esac
}

steps='deeplab densenet irnet gradcam labels dilated trace resume moco eager main'
for name in ${*:-$steps}; do
  run "$name"
done
echo "$report"

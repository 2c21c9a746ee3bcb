#!/usr/bin/env bash
# Measures everything of bench/README.md that needs a GPU, in one go, and prints it as tables:
# optimizers beside PyTorch's fused AdamW and a copy on the device in the same run, the bytes that
# they move where ncu can read the counters, many small sessions, and FLT attention. Less than eight
# minutes.
#
# usage: bench/gpu_report.sh [--seconds S] [--only optimizers|bytes|flt] PROGRAMS [OUT]
#   --seconds  for which each optimizer steps over each set of tensors; default: 1
#   --only     a part of it; `bytes` is printed beside what `optimizers` has left in OUT
#   PROGRAMS   the bin folder of a build with the CUDA backend, or of what scripts/bundle.sh collects
#   OUT        where the lines of JSON go; default: gpu_report
#
# Of the peers it runs those that are there: PyTorch must be, PyLO need not.
set -euo pipefail
usage() {
  sed -n '2,14s/^# \{0,1\}//p' "$0"
  exit 1
}
seconds=1
parts="optimizers bytes flt"
while (($# > 0)); do
  case "$1" in
    --seconds) seconds=${2:?} ;;
    --only) parts=${2:?} ;;
    *) break ;;
  esac
  shift 2
done
[[ "${1:--}" != -* ]] || usage
here=$(cd "$(dirname "$0")" && pwd)
programs=$(cd "$1" && pwd)
models=$here/../models
out=${2:-gpu_report}
mkdir -p "$out"
bench=("$programs/device_bench" --device cuda:0 --models "$models")

for part in $parts; do
  case "$part" in
    optimizers)
      "$programs/device_bench" --shapes >"$out/shapes.json"
      python3 "$here/gpu_peers.py" "$out/shapes.json" >"$out/peers.jsonl"
      "${bench[@]}" --seconds "$seconds" >"$out/ours.jsonl"
      "${bench[@]}" --sessions 1000 --seconds 0.2 >"$out/sessions.jsonl"
      ;;
    bytes) python3 "$here/gpu_bytes.py" "$programs" "$models" >"$out/bytes.jsonl" ;;
    flt) "$here/gpu_flt_report.sh" "$programs" "$out" ;;
    *) usage ;;
  esac
done
[[ "$parts" == flt ]] || python3 "$here/gpu_table.py" "$out"

#!/usr/bin/env bash
# Measures FLT attention and its peers on a GPU, both passes, in less than four minutes, and prints
# a table.
#
# usage: bench/gpu_flt_report.sh PROGRAMS [OUT]
#   PROGRAMS   the bin folder of a build with the CUDA backend, or of what scripts/bundle.sh collects
#   OUT        where the lines of JSON go; default: gpu_flt_report
set -euo pipefail
if (($# < 1)); then
  sed -n '2,7s/^# \{0,1\}//p' "$0"
  exit 1
fi
here=$(cd "$(dirname "$0")" && pwd)
programs=$(cd "$1" && pwd)
out=${2:-gpu_flt_report}
mkdir -p "$out"
# Peers compile side by side, each in a process of its own, which may break or hang; they are timed
# when ours is.
rm -f "$out/start"
processes=()
for peer in SDPA "compiled FLT" FlexAttention fla; do
  for type in bfloat16 float32; do
    timeout 220 python3 "$here/gpu_flt_peers.py" --seconds 60 --peers "$peer" --types "$type" \
      --lengths 65536 1024 16384 --start "$out/start" --lock "$out/lock" \
      >"$out/peer_${peer// /_}_$type.jsonl" &
    processes+=($!)
  done
done
sleep 65
"$programs/flt_bench" --device cuda:0 --seconds 0.1 >"$out/flt.jsonl"
"$programs/flt_bench" --device cuda:0 --seconds 0.1 --backward >"$out/flt_backward.jsonl"
touch "$out/start"
for process in "${processes[@]}"; do
  wait "$process" || echo "gpu_flt_report: a peer did not come to its end" >&2
done
cat "$out"/peer_*.jsonl >"$out/flt_peers.jsonl"
python3 "$here/gpu_flt_table.py" "$out"

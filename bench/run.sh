#!/usr/bin/env bash
# Runs all benchmarks of the CPU and prints the tables of bench/README.md. Wants a quiet machine and
# a release build: scripts/build.sh release
set -euo pipefail
cd "$(dirname "$0")/.."
bin=build/release/bin
"$bin/optimizer_bench"
"$bin/row_ops_bench"
/usr/bin/python3 bench/compare_adamw.py --bench "$bin/optimizer_bench" --python /usr/bin/python3
bench/stream_bench.sh "$bin"

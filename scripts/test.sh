#!/usr/bin/env bash
# Builds Mnemosyne and passes all its tests: formats and lints, C++ and Python tests in the `dev`
# preset, the C++ tests again under AddressSanitizer, those below server/rpc under ThreadSanitizer,
# a short run of each fuzz target, clang's warnings, the CUDA code where nvcc is found, and the
# meta-training package.
#
# usage: scripts/test.sh [--full | --minutes N | STAGE ...]
#   --full       also what takes long: benchmarks, everything under every sanitizer
#   --minutes N  starts no stage after so many minutes, and names those that it leaves out; for a
#                machine whose compiler cache is empty
#   STAGE        only these: setup style dev python metatrain cuda asan hardening clang tsan fuzz
set -euo pipefail
cd "$(dirname "$0")/.."

full=false
minutes=0
stages=()
while (($#)); do
  case "$1" in
    --full) full=true ;;
    --minutes)
      minutes=${2:?--minutes needs a number}
      shift
      ;;
    -h | --help)
      sed -n '2,12s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *) stages+=("$1") ;;
  esac
  shift
done
((${#stages[@]})) || stages=(setup style dev python metatrain cuda asan hardening clang tsan fuzz)

python=.venv/bin/python
cxx_files() { git ls-files '*.h' '*.cc' '*.cu' '*.cuh'; }

stage_setup() { scripts/setup.sh --tests; }

stage_style() {
  "$python" scripts/check_layers.py
  cxx_files | xargs clang-format-14 --dry-run --Werror
  .venv/bin/ruff check --quiet client/python scripts tests bench
  .venv/bin/ruff format --quiet --check client/python scripts tests bench
  .venv/bin/mypy --config-file client/python/pyproject.toml client/python/src
  .venv/bin/buf lint proto
  git ls-files '*.sh' '.ci/run' | xargs shellcheck
}

stage_dev() {
  scripts/build.sh dev
  ctest --preset dev -j "$(nproc)"
}

stage_hardening() {
  scripts/build.sh release mnemosyned mnemosynectl
  "$python" scripts/check_hardening.py build/release/bin/{mnemosyned,mnemosynectl}
  "$python" scripts/make_sbom.py build/release/bin/{mnemosyned,mnemosynectl} >build/release/sbom.json
}

stage_python() {
  scripts/build.sh dev mnemosyned mnemosynectl mnemosyne_flt
  MNEMOSYNED="$PWD/build/dev/bin/mnemosyned" "$python" -m pytest -q tests/python tests/e2e
}

# clang checks every file of ours; g++ has built them already.
stage_clang() {
  cmake --preset clang >/dev/null
  cmake --build --preset clang --target mnemosyne_proto_sources >/dev/null
  "$python" scripts/check_clang.py build/clang/compile_commands.json
}

# Everything in C++, and what hostile clients and tenants do to a whole daemon. Left out are tests of
# numbers that run for long (label slow), and those that time or weigh a daemon.
stage_asan() {
  scripts/build.sh asan
  ctest --preset asan -j "$(nproc)" -LE slow
  MNEMOSYNED="$PWD/build/asan/bin/mnemosyned" "$python" -m pytest -q \
    tests/e2e/test_{bad_specs,bad_steps,security}.py
}

# A short run of each fuzz target, from its corpus; MNEMOSYNE_FUZZ_SECONDS makes it longer. What is
# found goes to build/fuzz/corpus, and seeds only into the sources.
stage_fuzz() {
  scripts/build.sh fuzz fuzz_targets
  local source name found
  local -a options
  for source in tests/fuzz/*_fuzz.cc; do
    name=$(basename "$source" _fuzz.cc)
    found="build/fuzz/corpus/$name"
    mkdir -p "$found"
    # An input of these reaches so much that to weigh it by what is rare takes longer than to run it.
    case "$name" in
      conversation | model_config) options=(-entropic=0) ;;
      *) options=() ;;
    esac
    if [[ -f tests/fuzz/dictionaries/$name.dict ]]; then
      options+=("-dict=tests/fuzz/dictionaries/$name.dict")
    fi
    "build/fuzz/bin/${name}_fuzz" -max_total_time="${MNEMOSYNE_FUZZ_SECONDS:-5}" -timeout=20 \
      "${options[@]}" -print_final_stats=1 -artifact_prefix="build/fuzz/$name-" "$found" \
      "tests/fuzz/corpus/$name" 2>"build/fuzz/$name.log" || {
      tail -40 "build/fuzz/$name.log" >&2
      return 1
    }
    printf '%-16s %s\n' "$name" "$(grep -E '^#[0-9]+.*DONE' "build/fuzz/$name.log")"
  done
}

# Debian's gRPC is not built for ThreadSanitizer: what runs inside it stays out, and so do programs
# of FLT attention for GPUs, which a CPU runs on one thread.
stage_tsan() {
  scripts/build.sh tsan base_test codec_test kernels_test model_test optim_test security_test \
    session_test store_test rpc_test
  ctest --preset tsan -j "$(nproc)" -L below_grpc -E '^(Programs/Flt|FltProgramsTest)'
}

stage_cuda() {
  if ! command -v nvcc >/dev/null; then
    echo "cuda: skipped, nvcc is not on the path"
    return
  fi
  # One architecture and the targets that hold CUDA code; tests on a device that is not there skip.
  cmake --preset cuda -DCMAKE_CUDA_ARCHITECTURES=90 -DMNEMOSYNE_BENCHMARKS=OFF >/dev/null
  cmake --build --preset cuda --target kernels_test optim_test -j "$(nproc)"
  build/cuda/bin/kernels_test --gtest_brief=1
}

stage_metatrain() {
  local bin="$PWD/.venv-metatrain/bin"
  (
    cd metatrain
    "$bin/ruff" check --quiet .
    "$bin/ruff" format --quiet --check .
    "$bin/mypy" src
    "$bin/python" -m pytest -q -n 2 --dist loadfile
  )
}

left_out=()
for stage in "${stages[@]}"; do
  if ((minutes && SECONDS >= 60 * minutes)); then
    left_out+=("$stage")
    continue
  fi
  started=$SECONDS
  printf '\n== %s\n' "$stage"
  "stage_$stage"
  printf '== %s: ok in %d s\n' "$stage" $((SECONDS - started))
done
if $full; then
  scripts/build.sh tsan
  ctest --preset tsan -j "$(nproc)" -LE uses_grpc
  scripts/build.sh release
  bench/run.sh
fi
if ((${#left_out[@]})); then
  printf '\nNOT RUN, %d minutes had passed: %s\n' "$minutes" "${left_out[*]}"
  printf 'All other stages passed (%d s)\n' "$SECONDS"
  exit
fi
printf '\nAll stages passed: %s (%d s)\n' "${stages[*]}" "$SECONDS"

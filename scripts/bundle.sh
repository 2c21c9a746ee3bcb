#!/usr/bin/env bash
# Collects programs of a build, the library of FLT attention and the shared libraries that they need
# into a folder that runs from anywhere on any x86-64 Linux with a glibc at least as new as this
# machine's (Debian 12's is 2.36), without installing anything or setting a variable. A GPU needs
# its driver.
#
# usage: scripts/bundle.sh OUT [PRESET] [PROGRAM ...]
#   OUT       made anew: OUT/bin, OUT/lib and OUT/share
#   PRESET    whose build to take; default: release
#   PROGRAM   default: all in build/PRESET/bin but the tests, which need the sources, too
set -euo pipefail
cd "$(dirname "$0")/.."
if (($# < 1)) || [[ "$1" == -h || "$1" == --help ]]; then
  sed -n '2,10s/^# \{0,1\}//p' "$0"
  exit 1
fi
out=$1
preset=${2:-release}
build=build/$preset
shift $(($# > 1 ? 2 : 1))
command -v patchelf >/dev/null || {
  echo "bundle: patchelf is missing: apt-get install patchelf" >&2
  exit 1
}

programs=("$@")
if ((!${#programs[@]})); then
  for program in "$build"/bin/*; do
    [[ "$program" == *_test ]] || programs+=("$(basename "$program")")
  done
fi
rm -rf "$out"
mkdir -p "$out/bin" "$out/lib/runtime"

# Copies a file of code without its symbols; it looks for its libraries in `path` alone, never in
# what the environment names.
put() {
  local from=$1 folder=$2 path=$3 to
  to=$folder/$(basename "$from")
  cp -L "$from" "$to"
  chmod u+w "$to"
  strip --strip-unneeded "$to"
  patchelf --set-rpath "$path" "$to"
}

made=("${programs[@]/#/$build/bin/}")
# shellcheck disable=SC2016
for program in "${made[@]}"; do put "$program" "$out/bin" '$ORIGIN/../lib:$ORIGIN/../lib/runtime'; done
if [[ -f "$build/lib/libmnemosyne_flt.so" ]]; then
  made+=("$build/lib/libmnemosyne_flt.so")
  # shellcheck disable=SC2016
  put "$build/lib/libmnemosyne_flt.so" "$out/lib" '$ORIGIN'
fi

# Everything but the C runtime, which belongs to the machine. C++'s is for the programs alone: who
# loads a library into a process of his own has one there, which others in it may need newer.
for file in "${made[@]}"; do ldd "$file"; done |
  awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
  grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|ld-linux[^/]*)\.so' |
  while read -r library; do
    folder=$out/lib
    [[ "$library" =~ /(libgcc_s|libstdc\+\+)\.so ]] && folder=$out/lib/runtime
    # shellcheck disable=SC2016
    put "$library" "$folder" '$ORIGIN'
  done
# Where the daemon looks for its models.
mkdir -p "$out/share/mnemosyne"
cp -r models "$out/share/mnemosyne/"
echo "bundle: ${#programs[@]} programs, $(find "$out/lib" -type f | wc -l) libraries," \
  "$(du -sh "$out" | cut -f1) in $out"

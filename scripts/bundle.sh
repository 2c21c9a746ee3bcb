#!/usr/bin/env bash
# Collects programs of a build, and the shared libraries that they need, into a folder that runs on
# any x86-64 Linux with a glibc and libstdc++ at least as new as this machine's, without installing
# anything or setting a variable.
#
# usage: scripts/bundle.sh OUT [PRESET] [PROGRAM ...]
#   OUT       made anew: OUT/bin, OUT/lib and OUT/share
#   PRESET    whose build to take; default: release
#   PROGRAM   default: all in build/PRESET/bin
set -euo pipefail
cd "$(dirname "$0")/.."
if (($# < 1)) || [[ "$1" == -h || "$1" == --help ]]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0"
  exit 1
fi
out=$1
preset=${2:-release}
shift $(($# > 1 ? 2 : 1))
command -v patchelf >/dev/null || {
  echo "bundle: patchelf is missing: apt-get install patchelf" >&2
  exit 1
}

programs=("$@")
((${#programs[@]})) || mapfile -t programs < <(ls "build/$preset/bin")
rm -rf "$out"
mkdir -p "$out/bin" "$out/lib"
for program in "${programs[@]}"; do
  cp "build/$preset/bin/$program" "$out/bin/"
  strip "$out/bin/$program"
  # The path is looked for by these programs alone, never through the environment.
  # shellcheck disable=SC2016
  patchelf --set-rpath '$ORIGIN/../lib' "$out/bin/$program"
done

# Everything but the C and C++ runtimes, which belong to the machine.
for program in "${programs[@]}"; do ldd "build/$preset/bin/$program"; done |
  awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
  grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|libgcc_s|libstdc\+\+|ld-linux[^/]*)\.so' |
  while read -r library; do
    cp -L "$library" "$out/lib/"
    chmod u+w "$out/lib/$(basename "$library")"
    strip --strip-unneeded "$out/lib/$(basename "$library")"
    # shellcheck disable=SC2016
    patchelf --set-rpath '$ORIGIN' "$out/lib/$(basename "$library")"
  done
# Where the daemon looks for its models.
mkdir -p "$out/share/mnemosyne"
cp -r models "$out/share/mnemosyne/"
echo "bundle: ${#programs[@]} programs, $(find "$out/lib" -type f | wc -l) libraries," \
  "$(du -sh "$out" | cut -f1) in $out"

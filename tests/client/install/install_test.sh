#!/usr/bin/env bash
# Installs the component Client into a folder, builds a C and a C++ program with what is there and
# pkg-config alone, and runs them.
#
# usage: install_test.sh BUILD CMAKE COMPILER
set -euo pipefail
build=$1 cmake=$2 compiler=$3
here=$(cd "$(dirname "$0")" && pwd)
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
"$cmake" --install "$build" --component Client --prefix "$where/prefix" >"$where/log"
mv "$where/prefix" "$where/moved" # Nothing may depend on where it was installed to.
PKG_CONFIG_PATH=$(dirname "$(find "$where/moved" -name mnemosyne-flt.pc)")
export PKG_CONFIG_PATH
libraries=$(pkg-config --variable=libdir mnemosyne-flt)

read -ra flags <<<"$(pkg-config --cflags --libs mnemosyne-flt)"
cc -std=c99 -Wall -Wextra -Werror -o "$where/use_flt" "$here/use_flt.c" "${flags[@]}" -lm
LD_LIBRARY_PATH=$libraries "$where/use_flt"

read -ra flags <<<"$(pkg-config --cflags --libs mnemosyne-client)"
"$compiler" -std=c++20 -o "$where/use_client" "$here/use_client.cc" "${flags[@]}"
"$where/use_client"
test -f "$where/moved/share/mnemosyne/proto/mnemosyne/v1/optimizer_service.proto"

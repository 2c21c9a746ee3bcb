#!/bin/sh
# Makes a folder that holds programs and all that they need at run time: the shared libraries that
# the loader names, the loader itself, and the few files that the C library reads. A container image
# made of it needs no distribution and has no shell.
#
# usage: deploy/collect_runtime.sh FOLDER PROGRAM ...
set -eu
if [ "$#" -lt 2 ]; then
  sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
root=$1
shift

copy_library() { # From where the loader finds it, to the same place below the folder.
  mkdir -p "$root$(dirname "$1")"
  cp -L "$1" "$root$1"
}

mkdir -p "$root/usr/bin" "$root/etc" "$root/run/mnemosyne" "$root/usr/share/mnemosyne"
for program in "$@"; do
  install -m 0755 "$program" "$root/usr/bin/"
  strip "$root/usr/bin/$(basename "$program")"
  libraries=$(ldd "$program")
  if printf '%s\n' "$libraries" | grep 'not found' >&2; then
    echo "collect_runtime: $program lacks libraries" >&2
    exit 1
  fi
  for library in $(printf '%s\n' "$libraries" | grep -o '/[^ ]*'); do
    copy_library "$library"
  done
done

# What the driver's own library, which a container runtime mounts for a GPU, is linked with.
folder=$(dirname "$(ldd "$1" | grep -o '/[^ ]*libc\.so\.6')")
for name in libdl.so.2 libpthread.so.0 librt.so.1; do
  copy_library "$folder/$name"
done

echo 'hosts: files dns' >"$root/etc/nsswitch.conf"

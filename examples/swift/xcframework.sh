#!/bin/sh
# Makes CCulet.xcframework from the static libraries for iOS, its simulator and macOS. Not run so far;
# needs Xcode and rustup's standard libraries for the three targets.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
cd "$root"
headers=$(mktemp -d)
trap 'rm -rf "$headers"' EXIT
cp ffi/include/culet.h "$here/Module/module.modulemap" "$headers"
rm -rf "$here/CCulet.xcframework"
set --
for target in aarch64-ios aarch64-ios-sim aarch64-macos; do
    cargo xtask dist "$target"
    set -- "$@" -library target/dist/culet-*-"$target"/lib/libculet_c.a -headers "$headers"
done
xcodebuild -create-xcframework "$@" -output "$here/CCulet.xcframework"

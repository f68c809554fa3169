#!/bin/sh
# Makes CCulet.xcframework from the static libraries for iOS and macOS. Not run so far; needs Xcode.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
cd "$root"
cargo xtask dist aarch64-ios
cargo xtask dist aarch64-macos
headers=$(mktemp -d)
trap 'rm -rf "$headers"' EXIT
cp ffi/include/culet.h "$here/Module/module.modulemap" "$headers"
rm -rf "$here/CCulet.xcframework"
set --
for target in aarch64-ios aarch64-macos; do
    set -- "$@" -library target/dist/culet-*-"$target"/lib/libculet_c.a -headers "$headers"
done
xcodebuild -create-xcframework "$@" -output "$here/CCulet.xcframework"

#!/bin/sh
# Fetches Debian's ALSA for ARM Linux into the folder where `cargo xtask dist aarch64-linux` looks
# for it. It is linked against only: the board has its own. Needs apt; leaves the system as it is.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
sysroot=$root/target/dist/aarch64-linux/sysroot
lists=$(mktemp -d)
trap 'rm -rf "$lists"' EXIT
mkdir -p "$sysroot" "$lists/partial"
apt="apt-get -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::Lists=$lists"
apt="$apt -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root"
$apt update
cd "$lists"
$apt download libasound2:arm64 libasound2-dev:arm64
for package in ./*.deb; do dpkg-deb -x "$package" "$sysroot"; done
ls "$sysroot"/usr/lib/aarch64-linux-gnu/libasound.so*

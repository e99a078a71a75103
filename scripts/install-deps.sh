#!/usr/bin/env bash
# Installs what the build needs and this machine lacks. When nothing is missing it says nothing.
#
#   a C and a C++ compiler, make   librdkafka, RocksDB, AWS-LC and others are compiled from their sources
#   clang++                        compiles RocksDB sooner than g++; a CXX of your own takes its place
#   pkg-config, OpenSSL's headers  librdkafka talks TLS
#   libclang with its headers      RocksDB's bindings are generated from its C header
#   Rust                           the version that Cargo.toml asks for
#
# As root, or with a sudo that asks for no password, it installs Debian's packages. Otherwise it prints the
# command to run. Rust is never installed by it: a toolchain is its owner's to choose.
#
# Exit codes: 0 all there, 1 the installation failed, 2 something is missing and it is yours to install.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=() # Debian's names of what is missing
missing=()  # the same for people
rust_hint=''

main() {
  look_for_tools
  look_for_rust
  if ((${#packages[@]})); then install_packages; fi
  [[ -z $rust_hint ]] || fail "$rust_hint" 2
}

say() { printf 'install-deps: %s\n' "$*" >&2; }
fail() {
  say "$1"
  exit "$2"
}

have() { command -v "$1" >/dev/null 2>&1; }

lacks() {
  packages+=("$1")
  missing+=("$2")
}

look_for_tools() {
  packages=() missing=()
  have cc || lacks gcc 'a C compiler'
  have c++ || lacks g++ 'a C++ compiler'
  have "${CXX:-clang++}" || lacks clang 'clang++'
  have make || lacks make 'make'
  have pkg-config || lacks pkg-config 'pkg-config'
  have_openssl || lacks libssl-dev "OpenSSL's headers"
  have_libclang || lacks libclang-dev 'libclang'
}

# OPENSSL_DIR is what the crate openssl-sys takes instead of pkg-config's answer. Without pkg-config the
# headers cannot be asked for, and are looked for in their usual place.
have_openssl() {
  [[ -z ${OPENSSL_DIR:-} ]] || return 0
  if have pkg-config; then pkg-config --exists openssl; else [[ -e /usr/include/openssl/ssl.h ]]; fi
}

# The library alone parses no header: the compiler's own ones (stddef.h) come in another package, which
# Debian's libclang-dev brings too.
have_libclang() {
  [[ -z ${LIBCLANG_PATH:-} ]] || return 0
  any /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so* /usr/lib64/libclang*.so* \
    /usr/lib/libclang*.so* /usr/local/lib/libclang*.so* &&
    any /usr/lib/llvm-*/lib/clang/*/include/stddef.h /usr/lib/clang/*/include/stddef.h \
      /usr/lib64/clang/*/include/stddef.h /usr/local/lib/clang/*/include/stddef.h
}

# Whether one of the paths exists; a pattern that matched nothing arrives as itself.
any() {
  local path
  for path; do
    [[ ! -e $path ]] || return 0
  done
  return 1
}

look_for_rust() {
  local wanted found
  wanted=$(sed -nE 's/^rust-version = "([0-9.]+)"/\1/p' Cargo.toml)
  if ! have rustc || ! have cargo; then
    rust_hint="Rust $wanted or newer is missing: get it from https://rustup.rs"
    return
  fi
  found=$(rustc --version | sed -nE 's/^rustc ([0-9.]+).*/\1/p') || true
  if [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1) != "$wanted" ]]; then
    rust_hint="Rust $wanted or newer is needed, and rustc is ${found:-of an unknown version}: run 'rustup update'"
  fi
}

install_packages() {
  local names
  names=$(printf '%s, ' "${missing[@]}")
  names=${names%, }
  have apt-get || fail "missing: $names. Install them with this system's package manager." 2
  local as_root=()
  if ((EUID != 0)); then
    { have sudo && sudo -n true 2>/dev/null; } ||
      fail "missing: $names. Run: sudo apt-get install -y ${packages[*]}" 2
    as_root=(sudo -n)
  fi
  say "installing ${packages[*]}"
  bring "${as_root[@]}" || fail "could not install ${packages[*]}" 1
  look_for_tools
  ((${#packages[@]} == 0)) || fail "installed, and still not found: ${missing[*]}" 1
}

# The package lists may be absent or older than the archive: only then are they brought up to date.
bring() {
  install_with "$@" >/dev/null 2>&1 || { "$@" apt-get update -qq >&2 && install_with "$@" >&2; }
}

install_with() {
  "$@" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
}

main "$@"

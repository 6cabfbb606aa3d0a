#!/bin/sh
# Compiles the decoder to WebAssembly: `sh c/build_wasm.sh [FILE]`, by default web/metaq/decoder.wasm.
#
# The same compiler gives the same bytes, wherever it runs. The file of the repository is that of
#
#     Debian clang version 14.0.6, Debian LLD 14.0.6
#     SHA-256 8bfc2c6e751d5822fc1ac29774cc0e6ff027aad62c0a0f66bd673a2d015fb3c9
#
# Whoever changes metaq.c, metaq.h or wasm.c builds it anew and writes its SHA-256 here.
set -eu
cd "$(dirname "$0")"
out=${1:-../web/metaq/decoder.wasm}
headers=$(mktemp -d)
trap 'rm -rf "$headers"' EXIT
# There is no library: wasm.c has what is declared here.
cat >"$headers/string.h" <<'END'
#include <stddef.h>
void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);
int memcmp(const void *left, const void *right, size_t size);
size_t strlen(const char *text);
END
# With -O3 it is a third larger, and no faster.
${CLANG:-clang} --target=wasm32 -std=c99 -O2 -msimd128 -ffp-contract=off -Wall -Wextra -Werror -nostdlib -nostdlibinc \
    -isystem "$headers" -Wl,--no-entry -Wl,--strip-all -Wl,--stack-first -Wl,-z,stack-size=65536 wasm.c -o "$out"
chmod 644 "$out"

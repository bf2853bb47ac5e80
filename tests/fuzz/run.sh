#!/bin/sh
# Fuzzes the GGUF parser: run.sh [runs]; 50,000 runs by default, a bounded slice for CI. Fails on the first finding, whose input is
# left in AIRPY_FUZZ_DIR (or a temporary folder that is named). malloc_limit: a directory takes memory in proportion to its input.
set -eu

runs=${1:-50000}
root=$(cd "$(dirname "$0")/../.." && pwd)
clang=
for candidate in ${CLANG:-} clang clang-19 clang-18 clang-17 clang-16 clang-15 clang-14; do
    if command -v "$candidate" >/dev/null 2>&1; then
        clang=$candidate
        break
    fi
done
if [ -z "$clang" ]; then
    echo "run.sh: no clang (set CLANG)" >&2
    exit 1
fi

dir=${AIRPY_FUZZ_DIR:-$(mktemp -d)}
"${PYTHON:-python3}" "$root/tests/fuzz/make_corpus.py" "$dir"
"$clang" -std=c11 -g -O1 -fno-omit-frame-pointer -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -I"$root/csrc" \
    "$root/tests/fuzz/fuzz_gguf.c" "$root"/csrc/gguf/parse.c "$root"/csrc/gguf/lookup.c "$root"/csrc/base/*.c "$root"/csrc/quant/*.c \
    -lm -o "$dir/fuzz_gguf"
mkdir -p "$dir/found"
echo "fuzzing in $dir"
"$dir/fuzz_gguf" -runs="$runs" -max_len=16384 -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=2 -dict="$dir/gguf.dict" \
    -artifact_prefix="$dir/found/" -print_final_stats=1 "$dir/corpus"
[ -n "${AIRPY_FUZZ_DIR:-}" ] || rm -rf "$dir"

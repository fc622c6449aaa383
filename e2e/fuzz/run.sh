#!/usr/bin/env bash
# Runs every fuzz target for SECONDS_EACH=30 seconds under libFuzzer, on stable Rust: the compiler's coverage passes need no nightly,
# and there is no unsafe code of ours that a sanitizer would have to watch. What is found is written to findings/, beside seeds/.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${SECONDS_EACH:-30}
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
# With a target named, build scripts and macros are built without the flags.
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --target "$host" --quiet
corpus=$(mktemp -d)
trap 'rm -rf "$corpus"' EXIT
mkdir -p findings
failed=0
for seeds in seeds/*/; do
  name=$(basename "$seeds")
  mkdir "$corpus/$name"
  echo "$name: $seconds s"
  HEADWATER_FUZZ_TARGET=$name "target/$host/release/fuzz" "$corpus/$name" "$seeds" -max_total_time="$seconds" -timeout=20 \
    -rss_limit_mb=1024 -max_len=65536 -artifact_prefix="findings/$name-" -print_final_stats=1 2>"$corpus/$name.log" || failed=1
  grep -E '^(stat::number_of_executed_units|SUMMARY)|panicked at' "$corpus/$name.log" || true
done
if [ "$failed" = 1 ]; then
  echo "error: findings are in e2e/fuzz/findings; fix what they show and move them to e2e/fuzz/seeds" >&2
  exit 1
fi

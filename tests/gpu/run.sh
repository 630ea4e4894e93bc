#!/usr/bin/env bash
# tests/gpu/run.sh [PART] [ARGUMENT ...]: correctness on a CUDA device, then the tables of speed. PART is `tests`,
# `kernels`, `backward`, `throughput`, `classifiers` or `training`, each under 8 minutes; without it all of them run.
# `learning` trains references for half an hour, and `fp8` two of them for some minutes to see what 8-bit products do to
# the order of documents: they run only when they are named; `--references` takes a part of them.
# ARGUMENTs, such as `--corpus FILE...`, go to the part's program. PEERS=DIR runs the public kernels beside ours
# (tests/gpu/peers.py says what DIR holds). Needs torch, triton, transformers and pytest; no network.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} CUBLAS_WORKSPACE_CONFIG=:4096:8 HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
"$python" -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "tests/gpu/run.sh: torch finds no CUDA device")'
date -u +"date: %F"
part=all
case ${1:-} in tests | kernels | backward | throughput | classifiers | training | learning | fp8) part=$1 && shift ;; esac
failed=0
if [ "$part" = all ] || [ "$part" = tests ]; then

# Compiling takes most of the time, on one core: the tests run in several processes at once, by file and by name.
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
check() {
    # The settings of pyproject.toml need plugins that a bare machine lacks: only what these tests use is set here.
    "$python" -m pytest -c /dev/null --rootdir . -o 'markers=gpu: needs a CUDA device' -p no:cacheprovider \
        --import-mode=importlib -q -rP --show-capture=stdout -m gpu "$@"
}
declare -A running
start() {
    local name=$1
    shift
    OMP_NUM_THREADS=4 "$@" >"$logs/$name" 2>&1 &
    running[$!]=$name
}
for way in chosen portable; do
    for chosen in dtype0 dtype1 dtype2 'not dtype and not elements'; do
        start "ssd, $way, $chosen" check tests/gpu/test_ssd.py -k "$way and $chosen"
    done
    start "nll, $way" check tests/gpu/test_nll.py -k "$way"
done
for chosen in dtype0 dtype1 dtype2 'not dtype'; do
    start "ssd backward, $chosen" check tests/gpu/test_ssd_backward.py -k "$chosen"
done
for preset in tiny mamba2 gpt2; do
    start "cuda, $preset" check tests/gpu/test_cuda.py -k "$preset"
done
start "cuda, others" check tests/gpu/test_cuda.py -k "not tiny and not mamba2 and not gpt2"
for chosen in rows product head 'trained or ruins' compiled; do
    start "fp8, $chosen" check tests/gpu/test_fp8.py -k "$chosen"
done
for name in attention classifier conv_and_norm document_attention linear proxy several trained training; do
    start "$name" check "tests/gpu/test_$name.py"
done
for chosen in attention mlp both 'rotary or gate'; do
    start "hybrid, $chosen" check tests/gpu/test_hybrid.py -k "$chosen"
done
# Races in our kernels; in nvjet, the matrix products of cuBLAS, it finds one at times.
races() {
    local rc=0
    compute-sanitizer --tool racecheck "$python" tests/gpu/sanitize.py portable >"$logs/races" 2>&1 || rc=$?
    cat "$logs/races"
    ! grep -E 'Race reported|and (Read|Write) access' "$logs/races" | grep -v nvjet && return "$rc"
}
if command -v compute-sanitizer >/dev/null; then
    start memcheck compute-sanitizer --tool memcheck --error-exitcode 1 "$python" tests/gpu/sanitize.py
    start racecheck races
fi
finish() {
    for pid in "${!running[@]}"; do
        wait "$pid" || { failed=1; cat "$logs/${running[$pid]}"; }
        echo "${running[$pid]}: $(tail -n 1 "$logs/${running[$pid]}")"
    done
    running=()
}
finish
start "ssd, more than 2^31 elements" check tests/gpu/test_ssd.py -k elements # alone: it takes half of a card's memory
finish
grep -h "bfloat16 at most" "$logs"/* || true
fi
if [ "$part" = all ] || [ "$part" = kernels ]; then
    "$python" tests/gpu/bench_kernels.py ${PEERS:+--peers "$PEERS"}
fi
if [ "$part" = all ] || [ "$part" = backward ]; then
    "$python" tests/gpu/bench_backward.py ${PEERS:+--peers "$PEERS"}
fi
if [ "$part" = all ] || [ "$part" = throughput ]; then
    "$python" tests/gpu/throughput.py "$@"
fi
if [ "$part" = all ] || [ "$part" = classifiers ]; then
    "$python" tests/gpu/bench_classifiers.py "$@"
fi
if [ "$part" = all ]; then
    "$python" tests/gpu/bench_training.py
elif [ "$part" = training ]; then
    "$python" tests/gpu/bench_training.py "$@"
elif [ "$part" = learning ]; then
    "$python" tests/gpu/bench_learning.py "$@"
elif [ "$part" = fp8 ]; then
    "$python" tests/gpu/bench_fp8.py "$@"
fi
exit "$failed"

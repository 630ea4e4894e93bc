#!/usr/bin/env bash
# Correctness on a CUDA device, then a throughput table. Needs torch, triton, transformers and pytest; no network.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONPATH=. CUBLAS_WORKSPACE_CONFIG=:4096:8 HF_HUB_OFFLINE=1
"$python" -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "tests/gpu/run.sh: torch finds no CUDA device")'
# The settings of pyproject.toml need plugins that a bare machine lacks: only what these tests use is set here.
date -u +"date: %F"
"$python" -m pytest -c /dev/null --rootdir . -o 'markers=gpu: needs a CUDA device' -p no:cacheprovider --import-mode=importlib -q -m gpu tests/gpu
"$python" tests/gpu/throughput.py "$@"

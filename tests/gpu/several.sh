#!/usr/bin/env bash
# tests/gpu/several.sh PART --corpus FILE... [OPTION ...]: what several GPUs of one host give. PART is `scoring`,
# `training` or `ablation`; several.py says what each measures and takes. Needs Winnow's own packages; no network.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
exec "$python" tests/gpu/several.py "$@"

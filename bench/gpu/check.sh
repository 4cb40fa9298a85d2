#!/usr/bin/env bash
# The engine on a GPU, checked and timed. From the repository's root, one JSON line a check:
#   bash bench/gpu/check.sh                                  everything, with what is installed
#   bash bench/gpu/check.sh --sections attention,speed       some of it
#   bash bench/gpu/check.sh --device cpu --tiny              every check in small on a machine without a GPU
# --budget SECONDS   hard limit for the whole; what there was no time for is named at the end
# --wheels FOLDER    install these wheels beside what is there first (a machine without a network)
# --shared FOLDER    where data/hh-harmless-1.jsonl.gz lies (default: ../shared)
# --out FOLDER       results (default: bench/results/gpu)
# PYTHON             the interpreter (default: .venv/bin/python if it is there, else python3)
set -u
began=$(date +%s)
cd "$(dirname "$0")/../.." || exit 2
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --wheels)
      site=$(mktemp -d)
      "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$2"/*.whl \
        || echo '{"check": "wheels", "ok": false, "error": "some wheels could not be installed"}'
      export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
      shift 2 ;;
    *) arguments+=("$1"); shift ;;
  esac
done
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
# Rows differ in length from step to step: segments that grow leave no holes between them.
export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}
exec "$python" -m bench.gpu.check --began "$began" "${arguments[@]}"

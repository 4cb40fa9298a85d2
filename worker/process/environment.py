"""Which of the worker's variables a job's program sees: what it needs to compute, and nothing that opens a door.

A list of what may pass, not of what may not: nobody can say under which names somebody's secrets lie.
"""

import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from app.paths import ROOT

ALLOWED = (
    # the system and its language
    "PATH HOME USER LOGNAME SHELL LANG LANGUAGE LC_* TZ TMPDIR TEMP TMP XDG_* LD_LIBRARY_PATH LD_PRELOAD GLIBC_TUNABLES MALLOC_*",
    # Python and compilers
    "PYTHON* VIRTUAL_ENV CONDA_PREFIX CC CXX CUDAHOSTCXX COVERAGE_*",
    # the way out, for trackers
    "HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy",
    "SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE",
    # libraries that compute
    "HF_* TRANSFORMERS_* TOKENIZERS_* ACCELERATE_* FSDP_* TORCH* PYTORCH_* TRITON_* CUDA_* NVIDIA_* NCCL_* GLOO_*",
    "ROCM_* ROCR_* HIP_* HSA_* OMP_* GOMP_* KMP_* MKL_* OPENBLAS_* BLIS_* VECLIB_* NUMEXPR_* DNNL_* ONEDNN_*",
    # several processes
    "MASTER_ADDR MASTER_PORT RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE NODE_RANK",
)
PATTERNS = tuple(pattern for line in ALLOWED for pattern in line.split())
# A run is offline: it fetches nothing from the hub, so it needs no key to it.
NEVER = ("PREFLOOP_*", "HF_TOKEN*", "HF_HUB_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def of_program(
    own: Mapping[str, str], further: Iterable[str] = (), *, devices: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment of a job's program. `further`: more names or patterns that this job may see."""
    patterns = (*PATTERNS, *further)
    kept = {name: value for name, value in own.items() if _matches(name, patterns) and not _matches(name, NEVER)}
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH", "")]))
    ours = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return kept | ours | dict(devices or {})


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)

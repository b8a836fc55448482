"""What a job sees of the environment of its launcher: an explicit list, and nothing else.

A launcher may itself run in a job, under torchrun, or in a shell with leftovers of either. Whatever those say of nodes,
ranks, memory and arrays is about the launcher, and would be wrong in its jobs. So variables pass by name. A place that
needs more of them names them in its profile (`environment`).
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PASSED = (
    # who and where
    *("HOME", "USER", "LOGNAME", "SHELL", "TERM", "TZ", "LANG", "LANGUAGE", "LC_*"),
    *("TMPDIR", "TEMP", "TMP", "XDG_*"),
    # where programs and libraries are
    *("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "LIBRARY_PATH", "CPATH", "CC", "CXX"),
    *("VIRTUAL_ENV", "CONDA_*", "MODULEPATH", "MODULESHOME", "LOADEDMODULES", "LMOD_*", "BASH_ENV", "BASH_FUNC_*"),
    *("PYTHONPATH", "PYTHONHOME", "PYTHONUNBUFFERED", "PYTHONHASHSEED", "PYTHONWARNINGS", "PYTHONFAULTHANDLER"),
    *("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONUTF8", "PYTHONIOENCODING"),
    # Slurm, of which the place of its configuration alone
    "SLURM_CONF",
    # the machine's devices and how libraries use them
    *("CUDA_*", "CUBLAS_*", "CUDNN_*", "NVIDIA_*", "NCCL_*", "GLOO_*", "HIP_*", "ROCR_*", "HSA_*"),
    *("OMP_*", "MKL_*", "OPENBLAS_*", "KMP_*", "GOMP_*", "TORCH_*", "TORCHINDUCTOR_*", "PYTORCH_*", "TRITON_*"),
    # this project, and services that a run may reach
    *("DUALFORMER_*", "WANDB_*", "HF_*", "DECORD_*"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY"),
)
"""Names of variables, or patterns of names, that a job sees as its launcher does."""

NEVER = (
    *("SLURM_*", "SLURMD_*", "SBATCH_*", "SRUN_*", "SUBMITIT_*", "PMI_*", "PMI2_*", "PMIX_*", "OMPI_*"),
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_*", "ROLE_*", "MASTER_*", "TORCHELASTIC_*"),
)
"""What says which part of which job a process is; no profile can pass it on."""


def for_jobs(environ: Mapping[str, str], more: Sequence[str] = ()) -> dict[str, str]:
    """Returns what jobs see of `environ`.

    Args:
        environ: of the launcher.
        more: further names, or patterns of names, as a profile gives them.
    """
    return {name: value for name, value in environ.items() if _passes(name, more)}


def with_code(environ: Mapping[str, str], code: Path, threads: int) -> dict[str, str]:
    """Returns `environ` with what a process must know before its first import: where from, and its share of the cores.

    `python -m` would look into the working directory first, which may be a checkout that is being edited:
    PYTHONSAFEPATH keeps it out. Relative places of PYTHONPATH, the empty one included, would bring it back.

    Args:
        environ: variables that pass.
        code: folder that the process imports from.
        threads: CPU threads of the process.
    """
    places = [place for place in environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(place)]
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    path = os.pathsep.join([str(code.absolute()), *places])
    return {**environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", **limits}


@contextlib.contextmanager
def replaced(environ: Mapping[str, str]) -> Iterator[None]:
    """For the time of the block this process' environment, which what it starts inherits, is `environ`."""
    before = dict(os.environ)
    _become(environ)
    try:
        yield
    finally:
        _become(before)


def _become(environ: Mapping[str, str]) -> None:
    """Removes and sets what differs, and so never leaves another thread without the rest."""
    for name in set(os.environ) - set(environ):
        del os.environ[name]
    for name, value in environ.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _passes(name: str, more: Sequence[str]) -> bool:
    if name == "SLURM_CONF":
        return True
    return _matches(name, (*PASSED, *more)) and not _matches(name, NEVER)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

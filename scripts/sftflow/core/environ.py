"""What of the shell's environment a tool is given: a list of what it may need, and no secret.

Tools run other people's code on other people's data: training, servers. A key of the shell is none
of their business. ARCHITECTURE.md has the list in words.
"""

import os
import re
from collections.abc import Mapping

PASS = "SFTFLOW_PASS"  # further names, separated by commas, that the user wants to reach the tools

NAMES = frozenset(
    """
    PATH HOME USER LOGNAME SHELL TERM PWD HOSTNAME LANG LANGUAGE TZ TMPDIR TMP TEMP TEMPDIR
    LD_LIBRARY_PATH LD_PRELOAD LIBRARY_PATH CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH CC CXX
    VIRTUAL_ENV CONDA_PREFIX CONDA_DEFAULT_ENV MODULEPATH LOADEDMODULES LMOD_DIR
    HTTP_PROXY HTTPS_PROXY ALL_PROXY FTP_PROXY NO_PROXY
    SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE
    MASTER_ADDR MASTER_PORT RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE NODE_RANK USE_HF
    """.split()
)
FAMILIES = tuple(
    """
    LC_ XDG_ PYTHON SFTFLOW_ CUDA_ CUDNN_ CUBLAS_ NVIDIA_ NCCL_ TORCH PYTORCH_ TRITON_ XLA_ HIP_
    ROCR_ HSA_ GPU_ OMP_ GOMP_ KMP_ MKL_ OPENBLAS_ GOTO_ NUMEXPR_ VECLIB_ MALLOC_ HF_
    HUGGINGFACE_HUB_ TRANSFORMERS_ TOKENIZERS_ DATASETS_ MODELSCOPE_ SWIFT_ VLLM_ FLASH_ FLASHINFER_
    SLURM_ PMI_ PMIX_ OMPI_ UCX_ FI_ GLOO_ LSB_ PBS_ APPTAINER_ SINGULARITY_
    """.split()
)
SECRET = re.compile(r"(^|_)(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL|JWT|COOKIE|AUTH)S?(_|$)")


def for_tools(env: Mapping[str, str] | None = None, *also: str) -> dict[str, str]:
    """The part of an environment (ours) that a tool may see; `also` are families of its own."""
    env = os.environ if env is None else env
    wanted = {name.strip() for name in env.get(PASS, "").split(",")}
    return {
        name: value
        for name, value in env.items()
        if name in wanted
        or name.startswith(also or "\0")
        or ((name.upper() in NAMES or name.startswith(FAMILIES)) and not SECRET.search(name))
    }

"""No secret of the shell reaches a tool; what a tool needs does."""

import pytest
from sftflow.core.environ import for_tools

SECRETS = (
    "OPENAI_API_KEY ANTHROPIC_API_KEY HF_TOKEN HUGGING_FACE_HUB_TOKEN HUGGINGFACE_HUB_TOKEN "
    "MODELSCOPE_API_TOKEN MODELSCOPE_SDK_TOKEN SWANLAB_API_KEY WANDB_API_KEY VLLM_API_KEY "
    "AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AZURE_CLIENT_SECRET GITHUB_TOKEN "
    "GH_TOKEN SLURM_JWT SSH_AUTH_SOCK GPG_AGENT_INFO PGPASSWORD DATABASE_URL UV_INDEX_PASSWORD "
    "SINGULARITY_DOCKER_PASSWORD APPTAINER_DOCKER_PASSWORD NVIDIA_API_KEY MY_OWN_THING"
).split()
NEEDED = (
    "PATH HOME TMPDIR LANG LC_ALL LD_LIBRARY_PATH CUDA_VISIBLE_DEVICES CUDA_HOME NCCL_DEBUG "
    "https_proxy HTTPS_PROXY no_proxy SSL_CERT_FILE HF_HOME HF_ENDPOINT HF_HUB_CACHE "
    "XDG_CACHE_HOME MODELSCOPE_CACHE TOKENIZERS_PARALLELISM PYTORCH_ALLOC_CONF "
    "TORCHINDUCTOR_CACHE_DIR TRITON_CACHE_DIR OMP_NUM_THREADS SLURM_JOB_ID SLURM_PROCID PYTHONPATH "
    "VLLM_LOGGING_LEVEL"
).split()


@pytest.mark.parametrize("name", SECRETS)
def test_no_secret(name):
    assert for_tools({name: "canary"}) == {}


@pytest.mark.parametrize("name", NEEDED)
def test_what_is_needed(name):
    assert for_tools({name: "x"}) == {name: "x"}


def test_what_the_user_names_and_what_a_tool_owns():
    env = {"MY_OWN_THING": "x", "SWANLAB_API_KEY": "k", "SFTFLOW_PASS": "MY_OWN_THING, OTHER"}
    assert for_tools(env) == {name: env[name] for name in ("MY_OWN_THING", "SFTFLOW_PASS")}
    assert "SWANLAB_API_KEY" in for_tools(env, "SWANLAB_")

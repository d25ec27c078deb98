"""vLLM's server, without kernels that it compiles for other models (runs in vLLM's environment).

    python -P vllm_serve.py <arguments of vllm.entrypoints.openai.api_server>

On Hopper and newer cards vLLM compiles, at every start and whatever the model, the routers of four
mixtures of experts: 12 s of an H100. One of these compiles its own when it is first asked.
"""

import contextlib
import os
import runpy


def no_routers() -> None:
    with contextlib.suppress(ImportError):  # of other releases, which may not do so
        from vllm.model_executor.warmup import kernel_warmup

        kernel_warmup._LL_BF16_WARMUP_MODEL_SHAPES = ()


if __name__ == "__main__":
    # In the engine, which is forked: what is imported for it here could ask CUDA something, after
    # which vLLM would not fork.
    os.register_at_fork(after_in_child=no_routers)
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)

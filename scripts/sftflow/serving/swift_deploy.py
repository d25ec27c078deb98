"""`swift deploy` on a port that the supervisor already holds (runs in ms-swift's environment).

    python -P swift_deploy.py <arguments of swift deploy>      with SFTFLOW_PORT and SFTFLOW_KEY set

It is ms-swift's own SwiftDeploy, with these differences: it shares the port that is held for it,
where `swift deploy` moves to another one silently when the port is taken; the API key comes from
the environment, where `swift deploy` wants it as an argument and prints it, and a wrong one is
refused as OpenAI's API does (HTTP 401); GET /v1/session tells
what only this process knows (seconds, memory, versions, patches); batches are full (`full_batches`
in training/patches.py, which holds every change to ms-swift); of the model's generation_config.json
only the token ids are used; and attention is not cuDNN's, which plans anew for every length of the
cache, so for every token.

Seeds of requests are not heeded: ms-swift draws for a whole batch from torch's one generator.
"""

import os
import time

BEGUN = time.monotonic()
KEY = os.environ.pop("SFTFLOW_KEY")
PORT = int(os.environ.pop("SFTFLOW_PORT"))
HOST = os.environ.pop("SFTFLOW_HOST")

import resource  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
from importlib.metadata import version  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
import uvicorn  # noqa: E402
from swift.pipelines.infer.deploy import SwiftDeploy  # noqa: E402
from transformers import GenerationConfig  # noqa: E402

sys.path.append(str(Path(__file__).resolve().parents[2]))  # last: it has programs with common names
from sftflow.training import alarm, patches  # noqa: E402

IMPORTED = time.monotonic()
alarm.silence()


TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def plain_generation(engine) -> dict:
    """Keep of a model's own generation settings its token ids alone; {name: value} of the rest.

    ms-swift fills in from them whatever a request does not state, transformers does so once more,
    and some (no_repeat_ngram_size) no request can state: answers would differ unseen.
    """
    own = engine.generation_config
    tokens = {name: getattr(own, name, None) for name in TOKENS}
    plain = GenerationConfig(**tokens, top_k=0)  # all tokens; if not stated, transformers takes 50
    engine.generation_config = engine.model.generation_config = plain
    usual = GenerationConfig().to_dict()
    return {
        name: value
        for name, value in own.to_diff_dict().items()
        if name not in TOKENS and name in usual and value != usual[name]
    }


class Deploy(SwiftDeploy):
    """SwiftDeploy on HOST:PORT, opened only by KEY."""

    def _install_auth_middleware(self) -> None:
        self.loaded = time.monotonic()
        self.args.api_key = KEY  # after ms-swift has logged its arguments
        super()._install_auth_middleware()
        self.set_aside = plain_generation(self.infer_engine)
        _, self.batches = patches.apply(patches.full_batches, self.infer_engine)
        self.app.get("/v1/session")(self.session)

    @staticmethod
    def create_error_response(status_code, message):
        status = 401 if message == "API key error" else status_code
        return SwiftDeploy.create_error_response(status, message)

    async def session(self) -> dict:
        """{import_seconds, load_seconds, memory and gpu_memory (bytes; null: no GPU), …}.

        `set_aside`: what the model's generation_config.json holds beside token ids; it is not used.
        `thinking`: whether the template thinks where a request does not say.
        """
        cuda = torch.cuda.is_available() and torch.cuda.max_memory_reserved() > 0
        return {
            "import_seconds": round(IMPORTED - BEGUN, 3),
            "load_seconds": round(self.loaded - IMPORTED, 3),
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "gpu_memory": torch.cuda.max_memory_reserved() if cuda else None,
            "dtype": str(self.infer_engine.model.dtype).removeprefix("torch."),
            "device": str(self.infer_engine.model.device),
            "versions": {
                name: version(name) for name in ("ms-swift", "transformers", "torch", "peft")
            },
            "patches": [self.batches],
            "set_aside": self.set_aside,
            "thinking": self.infer_engine.template.enable_thinking,
        }

    def run(self) -> None:
        self.jsonl_writer = None  # nothing that was asked or answered is written down here
        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # connections that a server before this one closed do not keep the port taken
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((HOST, PORT))
            uvicorn.run(self.app, fd=listening.fileno(), log_level="warning", access_log=False)


if __name__ == "__main__":
    torch.backends.cuda.enable_cudnn_sdp(False)  # torch asks it first on Hopper
    Deploy().main()

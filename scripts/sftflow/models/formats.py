"""Which files of a folder or repository make up one model."""

import re
from fnmatch import fnmatch
from pathlib import Path

from sftflow.core.cli import UserError

KEEP = ["*.safetensors", "*.json", "*.model", "*.tiktoken", "*.txt", "*.jinja", "*.md", "LICENSE*"]
KEEP += ["NOTICE*"]
PICKLES = ["*.bin", "*.pt", "*.pth"]
CODE = ["*.py", *PICKLES]  # runs, or may run, when it is loaded
# The same weights once more in another format (Mistral's consolidated files), or of a training.
LEAVE = ["original/*", "consolidated*", "training_args.bin", "optimizer.*", "onnx/*"]
TEMPLATES = "additional_chat_templates/"  # transformers reads this folder of a model
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
OTHERS = {  # formats of weights that no step takes
    ".gguf": "GGUF, which is llama.cpp's",
    ".onnx": "ONNX, which cannot be trained",
    ".h5": "TensorFlow's",
    ".msgpack": "Flax's",
}


def matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def of_one_model(names: list[str], code: bool) -> list[str]:
    """Of a repository's files those of one model in one format. Raises UserError: none is taken."""
    kept = [
        name
        for name in names
        if matches(name, KEEP + CODE * code)
        and not matches(name, LEAVE)
        and ("/" not in name or name.startswith(TEMPLATES) or (code and name.endswith(".py")))
    ]
    weights = [name for name in kept if name.endswith(".safetensors")]
    if not weights and not any(matches(name, PICKLES) for name in names):
        for name in names:
            if why := OTHERS.get(Path(name).suffix):
                raise UserError(
                    f"no *.safetensors, only weights that are {why} ({name}): take the repository "
                    "that they were made of"
                )
    numbered = {
        name: found[1] for name in weights if (found := re.match(r"(.*)-\d+-of-\d+\.", name))
    }
    if INDEX in kept and numbered:  # one that names the shards, of one precision
        plain = [name for name, stem in numbered.items() if stem == "model"]
        taken = {*(plain or numbered), WHOLE}
    elif WHOLE in weights:
        taken = {WHOLE}
    else:
        taken = set(weights)
    pickled = [name for name in kept if weights and matches(name, PICKLES)]
    return [name for name in kept if name in taken or name not in {*weights, *pickled}]


def holds_weights(name: str) -> bool:
    """Whether a file of a model holds weights, or says where they lie."""
    return matches(name, ["*.safetensors", "*.index.json", *PICKLES])

"""Writes config/schemas/swift_names.json: the names that the locked ms-swift and transformers know.

    envs/swift/.venv/bin/python scripts/dev/swift_names.py

in:   the packages of envs/swift
out:  --output  {versions, model_type, template, agent_template, lr_scheduler_type, attn_impl,
                optim, optimizer}
A slow test fails when the file and envs/swift differ.
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path

DEFAULT = Path(__file__).resolve().parents[2] / "config" / "schemas" / "swift_names.json"


def names() -> dict:
    from swift.agent_template import agent_template_map
    from swift.model import MODEL_MAPPING
    from swift.optimizers import optimizers_map
    from swift.template import TEMPLATE_MAPPING
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    attention = {name for name in ALL_ATTENTION_FUNCTIONS.valid_keys() if "|" not in name}
    return {
        "versions": {name: version(name) for name in ("ms-swift", "transformers")},
        "model_type": sorted(MODEL_MAPPING),
        "template": sorted(TEMPLATE_MAPPING),
        "agent_template": sorted(agent_template_map),
        "lr_scheduler_type": sorted(kind.value for kind in SchedulerType),
        # `eager` is each model's own code, `flash_attn` ms-swift's word for flash_attention_2;
        # names with a | are for generation only
        "attn_impl": sorted(attention | {"eager", "flash_attn"}),
        "optim": sorted(kind.value for kind in OptimizerNames),
        "optimizer": sorted(optimizers_map),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=DEFAULT, help="file to write")
    args = parser.parse_args()
    args.output.write_text(json.dumps(names(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

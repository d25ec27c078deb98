"""ms-swift's template of a model: a dialogue as tokens, and which of them carry loss."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from sftflow.core.cli import UserError

UNLIMITED = 1 << 40  # the template only encodes; what is too long is decided elsewhere


def training_template(weights: Path, model: dict) -> Any:
    """The template that ms-swift trains with: `encode({"messages", "tools"?})` gives input_ids and
    labels, -100 where a token carries no loss.

    model: {"model_type", "template", "system", "thinking"?}. UserError for a template unknown to
    ms-swift.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with contextlib.redirect_stdout(sys.stderr):
        from swift import get_processor, get_template
        from swift.template import TEMPLATE_MAPPING

        if model["template"] and model["template"] not in TEMPLATE_MAPPING:
            raise UserError(f"ms-swift has no template {model['template']!r}")
        processor = get_processor(str(weights.resolve()), model_type=model["model_type"])
        template = get_template(
            processor,
            default_system=model.get("system"),
            max_length=UNLIMITED,
            template_type=model["template"],
            enable_thinking=model.get("thinking"),
        )
        template.set_mode("train")
    return template

"""ms-swift's template of a model: a dialogue as tokens, and which of them carry loss."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from sftflow.core.cli import UserError

UNLIMITED = 1 << 40  # the template only encodes; what is too long is decided elsewhere


def training_template(tokenizer: Path, model: dict) -> Any:
    """The template that ms-swift trains with: `encode({"messages", "tools"?})` gives input_ids and
    labels, -100 where a token carries no loss.

    tokenizer: a folder with the files of a model, or with all of these but its weights.
    model: {"name", "model_type", "template", "system", "agent_template"?, "thinking"?}. UserError
    for a template that ms-swift lacks.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with contextlib.redirect_stdout(sys.stderr):
        from swift import get_processor, get_template
        from swift.agent_template import agent_template_map
        from swift.template import TEMPLATE_MAPPING

        if model["template"] and model["template"] not in TEMPLATE_MAPPING:
            raise UserError(f"ms-swift has no template {model['template']!r}")
        agent = model.get("agent_template")
        if agent and agent not in agent_template_map:
            raise UserError(
                f"models.{model['name']}.agent_template: ms-swift has no {agent!r}; it has "
                f"{', '.join(agent_template_map)}"
            )
        processor = get_processor(str(tokenizer.resolve()), model_type=model["model_type"])
        template = get_template(
            processor,
            default_system=model.get("system"),
            max_length=UNLIMITED,
            template_type=model["template"],
            agent_template=agent,
            enable_thinking=model.get("thinking"),
        )
        template.set_mode("train")
    return template

"""config/README.md is what the schema says, and names every key."""

import config_docs
import yaml
from sftflow.config import resolve
from sftflow.config.schema import FOLDER, follow, schema


def test_the_readme_equals_the_schema():
    written = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert written == config_docs.readme(), "run: " + config_docs.__doc__.split("\n\n")[1]


def test_every_key_has_a_row():
    text = config_docs.readme()

    def walk(path, node):
        node = follow(node)
        for key, below in node.get("properties", {}).items():
            forms = (f"`{key}`", f".{key}`", f".{key}.", f"### {key}\n")
            assert any(form in text for form in forms), f"{path}.{key}"
            walk(f"{path}.{key}", below)
        for entry in ("additionalProperties", "items"):
            if isinstance(node.get(entry), dict):
                walk(f"{path}[]", node[entry])

    walk("", schema())


def test_the_examples_in_the_readme_are_sound():
    parts = config_docs.INTRODUCTION.split("```yaml\n")[1:]
    study = {
        "models": {"internlm2.5-7b-chat": {"source": "a/b"}},
        "datasets": {"one": {"source": "a/c"}, "two": {"source": "a/d"}},
    }
    for part in parts:
        study |= yaml.safe_load(part.split("```")[0])
    resolved = resolve.load(study)
    assert len(resolved["runs"]) == 3 + 1 + 4
    assert "rank-lora_rank4-datasetone" in resolved["runs"]

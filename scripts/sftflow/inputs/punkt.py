"""What evalscope counts sentences with where it scores instructions: NLTK's punkt_tab, English.

evalscope would fetch it on the node that asks, and where it can't, score nothing; so it is fetched
with the questions, lies beside them (data/nltk_data, in NLTK's layout) and is part of their digest.
Runs in envs/evalscope.
"""

import os
import tempfile
from pathlib import Path
from unittest import mock

from sftflow.core.cli import UserError
from sftflow.core.layout import NLTK_DATA

NEEDED_BY = ("ifeval",)
ZIPPED = "tokenizers/punkt_tab.zip"
INSIDE = "tokenizers/punkt_tab/english"
FILES = ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt")


def copy_punkt(source: Path, data: Path) -> None:
    """Copy it from punkt_tab.zip below `source`, or where NLTK looks, or from evalscope's mirror.

    UserError where it can't be had.
    """
    import nltk
    from evalscope.utils.resource_utils import check_nltk_data

    def read() -> dict[str, bytes]:
        return {name: nltk.data.find(f"{INSIDE}/{name}").open().read() for name in FILES}

    with tempfile.TemporaryDirectory() as home, mock.patch.dict(os.environ, HOME=home):
        # where the file is that a link in `source` leads to: NLTK follows no links out of a folder
        own = [str(file.resolve().parents[1]) for file in source.glob(ZIPPED)]
        places = [*own, *nltk.data.path, str(Path(home) / NLTK_DATA)]
        with mock.patch.object(nltk.data, "path", places):
            try:
                try:
                    found = read()
                except LookupError:
                    check_nltk_data("punkt_tab")  # fetches it; of .zip files it knows nothing
                    found = read()
            except (RuntimeError, LookupError, OSError) as error:
                raise UserError(
                    "its answers are scored with NLTK's punkt_tab, which is not here and can't be "
                    f"fetched ({error}). Put punkt_tab.zip of github.com/nltk/nltk_data "
                    "(packages/tokenizers) into a folder `tokenizers` below the source, or below "
                    "one that NLTK_DATA names"
                ) from None
    folder = data / NLTK_DATA / INSIDE
    folder.mkdir(parents=True)
    for name, content in found.items():
        (folder / name).write_bytes(content)

"""Config files as they stand on disk: text, YAML or JSON, with places.

Snakemake's own reader keeps the last of two equal keys and says of a broken file only that it is
broken. Here every refusal names file, line and column, and what to do.
"""

import copy
import difflib
import functools
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from sftflow.core.cli import UserError

MOST_NODES = 1_000_000  # an alias can stand for a thousand others, which stand for a thousand each

TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}"
    for kind in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq", "merge")
)

# (part of what the parser says, what to do). {line} is where the construct began that it speaks of.
HINTS = (
    (r"'\\t'", "indent with spaces, never with a tab"),
    (
        "expected ',' or .*(begun in line|stream end)",
        "close the bracket opened in line {line}; inside it, a text with ? : , [ or {{ in it must "
        "be in quotes",
    ),
    ("expected ',' or", "inside [ ] and {{ }} a text with ? : , [ or {{ in it must be in quotes"),
    (
        "mapping values are not allowed",
        "a text with ': ' in it must be in quotes; a key wants a colon and a space after it, also "
        "in the line above, and no more indentation than the keys beside it",
    ),
    (
        "could not find expected ':'",
        "line {line} must be 'key: value' or '- item', with a space after the colon or hyphen",
    ),
    (
        "but found '<scalar>'",
        "a text that goes on after its closing quote must be quoted as a whole",
    ),
    ("expected <block end>", "the keys of a map, and the items of a list, are indented alike"),
    ("while scanning a quoted scalar", "close the quote opened in line {line}"),
    ("cannot start any token", "a text that begins with this character must be in quotes"),
    ("alias", "a text that begins with * or & must be in quotes"),
    ("escape", r"in double quotes \ is special; use single quotes, or / in a path"),
    ("single document", "one file is one study; take the line '---' out"),
    ("special characters", "take the character out"),
)


def read(path: str | Path) -> tuple[dict, list[str]]:
    """The map in a config file, and what in it can be read but can't be meant, one line each.

    Raises UserError, with file, line and column, when it can't be read or is no map.
    """
    text = decode(path)
    try:
        value, not_meant = copy.deepcopy(_parsed(text))
    except RecursionError:
        raise UserError(f"{path}: brackets or indentation nested too deeply to be meant") from None
    except yaml.MarkedYAMLError as error:
        raise UserError(_syntax_error(path, error, text)) from None
    except yaml.reader.ReaderError as error:
        line, column = _place(text, error.position)
        told = f"{error.reason} (U+{error.character:04X})"
        raise UserError(f"{path}, line {line}, column {column}: {told}{_hint(told)}") from None
    if not isinstance(value, dict):
        what = "is empty" if value is None else "holds no map"
        raise UserError(f"{path}: {what}; a config is a map, one 'key: value' a line")
    return value, [f"{path}, {line}" for line in not_meant]


def read_all(paths: Iterable[str | Path]) -> tuple[list[dict], list[str]]:
    """`read` of several files. A UserError tells of all that can't be read, one line each."""
    maps, not_meant, broken = [], [], []
    for path in paths:
        try:
            value, lines = read(path)
        except UserError as error:
            broken.append(str(error))
        else:
            maps.append(value)
            not_meant += lines
    if broken:
        raise UserError("\n".join(broken))
    return maps, not_meant


def merge(below: dict, above: dict) -> dict:
    """Configs laid on top of each other, as Snakemake does: maps key by key, else as a whole."""
    merged = dict(below)
    for key, value in above.items():
        old = below.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            value = merge(old, value)
        merged[key] = value
    return merged


def nearest_path(path: Path) -> str:
    """A hint to append to "does not exist": the nearest name where the path leaves what exists."""
    whole = path.absolute()
    parent = next((folder for folder in whole.parents if folder.is_dir()), None)
    if parent is None:
        return ""
    missing, *rest = whole.relative_to(parent).parts
    near = difflib.get_close_matches(missing, [entry.name for entry in parent.iterdir()], 1, 0.7)
    if not near:
        return ""
    found = parent.joinpath(near[0], *rest)
    found = found if found.exists() else parent / near[0]
    return f"; did you mean '{found if path.is_absolute() else os.path.relpath(found)}'?"


# --- text ----------------------------------------------------------------------------------------


def decode(path: str | Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark; else a UserError."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        hint = nearest_path(Path(path))
        if not hint and not Path(path).suffix:
            hint = "; a target stands before --configfile, which takes all words up to an option"
        raise UserError(f"{path}: no such config file (from {Path.cwd()}){hint}") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = len(content[: error.start].rpartition(b"\n")[2].decode("utf-8")) + 1
        encoding = guess_encoding(content)
        target = Path(path).with_suffix(f".utf8{Path(path).suffix}")
        raise UserError(
            f"{path}, line {line}, column {column}: the file is not in UTF-8 but, by its bytes, in "
            f"{encoding}. Convert it: iconv -f {encoding} -t UTF-8 '{path}' > '{target}'"
        ) from None


def guess_encoding(content: bytes) -> str:
    """The encoding, by iconv's name, of bytes that are no UTF-8."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    if not re.search(rb"[\x80-\xff]{2}", content):
        return "WINDOWS-1252"  # letters of Western Europe stand alone among ASCII
    # gb2312, the common part of GBK, is the strictest of these, so it is asked first
    for codec, name in (
        ("gb2312", "GBK"),
        ("big5", "BIG5"),
        ("shift_jis", "SHIFT_JIS"),
        ("gb18030", "GB18030"),
    ):
        try:
            content.decode(codec)
        except UnicodeDecodeError:
            continue
        return name
    return "WINDOWS-1252"


def _place(text: str, position: int) -> tuple[int, int]:
    """Line and column, from 1, of a character."""
    return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)


@functools.lru_cache(maxsize=4)
def _parsed(text: str) -> tuple[Any, list[str]]:
    """Snakemake's profile and its Snakefile ask for the same file, which may hold 1,000 runs."""
    return _json(text) or _yaml(text)


# --- YAML ----------------------------------------------------------------------------------------


def _json(text: str) -> tuple[Any, list[str]] | None:
    """As `_yaml`, of a JSON document, which Snakemake takes too; None for any other."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    # JSON may be indented with tabs, YAML may not; inside JSON's texts there are none
    try:
        tree = yaml.compose(text.replace("\t", " "), Loader=yaml.SafeLoader)
    except yaml.YAMLError:  # the little JSON that is no YAML, as a key of 2,000 characters
        return value, []
    return value, list(_not_meant(tree))


def _yaml(text: str) -> tuple[Any, list[str]]:
    """Value of a YAML document, and what in it can't be meant."""
    loader = yaml.SafeLoader(text)  # in Python: its messages say more than those of the one in C
    tree = loader.get_single_node()
    if tree is None:
        return None, []
    _check_tree(tree, loader)
    not_meant = list(_not_meant(tree))  # first: the constructor writes merged keys into the tree
    return loader.construct_document(tree), not_meant


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _check_tree(tree: yaml.Node, loader: yaml.SafeLoader) -> None:
    """Refuse what can't become plain data: foreign tags, impossible values, endless aliases."""
    sizes: dict[yaml.Node, int] = {}  # nodes below, counted as often as aliases name them

    def size(node: yaml.Node) -> int:
        if sizes.get(node) == 0:
            raise _error("an alias that stands for itself", node)
        if node not in sizes:
            sizes[node] = 0
            sizes[node] = 1 + sum(map(size, _children(node)))
            if sizes[node] > MOST_NODES:
                raise _error(f"aliases that stand for {sizes[node]:,} values", node)
        return sizes[node]

    size(tree)
    for node in sizes:
        if node.tag not in TAGS:
            raise _error(
                f"the tag '{node.tag}'; a text that looks like one must be in quotes", node
            )
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                raise _error("a list or map as a key; a key with [ or { must be in quotes", key)
        if isinstance(node, yaml.ScalarNode) and not node.tag.endswith(":merge"):
            try:
                str(loader.construct_object(node))
            except ValueError as error:  # a month 13, a number of 5,000 digits
                raise _error(f"an impossible value: {str(error).split(';')[0]}", node) from None


def _error(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _not_meant(node: yaml.Node, path: str = "") -> Iterator[str]:
    """Keys that stand twice in one map, and keys that YAML reads as something else than a text."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _not_meant(item, f"{path}[{index}]")
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.tag.endswith(":merge"):
            continue
        below = f"{path}.{key.value}".removeprefix(".")
        if key.value in first:
            yield f"line {line}: '{below}' stands in line {first[key.value]} already; keep one"
        elif _changed(key):
            yield f"line {line}: YAML reads the key '{key.value}' as another; put it in quotes"
        first.setdefault(key.value, line)
        yield from _not_meant(value, below)


def _changed(key: yaml.ScalarNode) -> bool:
    """Whether a key becomes another text: no -> False, 007 -> 7."""
    return str(yaml.SafeLoader("").construct_object(key)) != key.value


def _syntax_error(path: str | Path, error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark
    context = error.context_mark or mark
    said = error.problem + (f" {error.context}" if error.context else "")
    if context.line != mark.line:
        said += f", begun in line {context.line + 1}, column {context.column + 1}"
    lines = text.splitlines()
    near = " ".join(lines[max(0, mark.line - 1) : mark.line + 1])
    hint = _hint(said, context.line + 1)
    if "：" in near:
        hint = "; a full-width ： is no colon to YAML, write ': '"
    return f"{path}, line {mark.line + 1}, column {mark.column + 1}: {said}{hint}"


def _hint(said: str, line: int = 0) -> str:
    """What to do about what the parser said, to append to it."""
    hints = (hint for part, hint in HINTS if re.search(part, said))
    hint = next(hints, None)
    return f"; {hint.format(line=line)}" if hint else ""

"""A config file that can't be read, or says something twice, is refused with line and column."""

import subprocess

import pytest
from support import run_check as check


@pytest.fixture
def told(tmp_path):
    """What check.py says of a file with this content."""

    def told(content: str | bytes) -> str:
        content = content.encode() if isinstance(content, str) else content
        (tmp_path / "study.yaml").write_bytes(content)
        status, text = check(tmp_path, "study.yaml")
        assert status == 1, text
        assert "Traceback" not in text
        return text

    return told


@pytest.mark.parametrize(
    ("content", "place", "hint"),
    [
        (
            "prompts: [Can you sleep?]",
            "study.yaml, line 1, column 24",
            "a text with ? : , [ or { in it must be in",
        ),
        ("software: active\nprompts: [a, b: c: d]", "line 2, column 18", "must be in quotes"),
        ("prompts: [a\nsoftware: active", "line 2, column 9", "close the bracket opened in line 1"),
        ("prompts: [a\n- b", "line 2", "close the bracket opened in line 1"),
        ("models: {a: {label: b}\nx: 1", "line 2, column 1", "close the bracket opened in line 1"),
        ("prompts: [a, b", "line 1", "close the bracket opened in line 1"),
        (
            "models:\n  a:\n    label: x: y",
            "line 3, column 13",
            "a text with ': ' in it must be in",
        ),
        (
            "training:\n  seed:1\n  gpus: 2",
            "line 3, column 7",
            "a space after it, also in the line",
        ),
        ("training:\n\tseed: 3", "line 2, column 1", "indent with spaces, never with a tab"),
        ("training:\n  seed: 3\n\tgpus: 1", "line 3, column 1", "indent with spaces"),
        ("training:\n    seed: 1\n  gpus: 2", "line 3, column 3", "are indented alike"),
        (
            "suites:\n  general:\n  -a\n  - b",
            "line 4, column 3",
            "line 3 must be 'key: value' or '- ",
        ),
        ('prompts:\n  - "a" b', "line 2, column 9", "must be quoted as a whole"),
        ('prompts: ["a, b]\n', "line 2, column 1", "close the quote opened in line 1"),
        ("prompts:\n  - @you", "line 2, column 5", "begins with this character must be in quotes"),
        ("prompts:\n  - *you*", "line 2", "a text that begins with * or & must be in quotes"),
        ("prompts:\n  - !you", "line 2, column 5", "a text that looks like one must be in quotes"),
        ('prompts: ["C:\\data"]', "line 1, column 15", "in double quotes"),
        ("models:\n  [a]: {source: a/b}\n", "line 2, column 3", "a list or map as a key"),
        ("prompts:\n  - =", "line 2, column 5", "a text that looks like one must be in quotes"),
        ("training：\n  seed: 1", "line 2, column 7", "a full-width ： is no colon"),
        ("software: active\n---\nstage: all", "line 2, column 1", "one file is one study"),
        ("prompts: [a\x07]", "line 1, column 12", "(U+0007); take the character out"),
        ("prompts: &x [*x]", "line 1", "an alias that stands for itself"),
        ("x: 2025-13-01", "line 1, column 4", "an impossible value: month must be in 1..12"),
        ("a: 0x" + 5000 * "f", "line 1, column 4", "an impossible value: Exceeds the limit"),
        ("prompts: " + 3000 * "[", "nested", "too deeply"),
        ("training: {seed: " + 5000 * "9" + "}", "line 1, column 18", "5000 digits"),
    ],
)
def test_a_syntax_error_has_its_place_and_a_hint(told, content, place, hint):
    text = told(content)
    assert "study.yaml" in text and place in text
    assert hint in text


def test_aliases_of_aliases_are_refused_before_they_fill_the_memory(told):
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 9)]
    assert "line 6, column 5: aliases that stand for 1,111,111 values" in told("\n".join(rows))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "study.yaml: is empty; a config is a map"),
        ("- a\n", "study.yaml: holds no map; a config is a map"),
        (
            "runs:\n  a: {model: x}\n  b: {model: x}\n  a: {model: y}\n",
            "study.yaml, line 4: 'runs.a' stands in line 2 already; keep one",
        ),
        (
            "training: {seed: 1, gpus: 2, seed: 3}",
            "study.yaml, line 1: 'training.seed' stands in line 1 already",
        ),
        (
            '{\n\t"stage": "all",\n\t"stage": "report"\n}',
            "line 3: 'stage' stands in line 2 already",
        ),
        ("runs:\n  1: {}\n  '1': {}\n", "line 3: 'runs.1' stands in line 2 already"),
        (
            "comparisons:\n- baseline: a\n  baseline: b\n",
            "'comparisons[0].baseline' stands in line",
        ),
        (
            "models:\n  no: {source: a/b}\n",
            "line 2: YAML reads the key 'no' as another; put",
        ),
        ("models:\n  007: {source: a/b}\n", "line 2: YAML reads the key '007' as another"),
    ],
)
def test_what_can_not_be_meant_is_refused_with_its_lines(told, content, line):
    assert line in told(content)


def test_merge_keys_are_no_duplicates(tmp_path):
    (tmp_path / "study.yaml").write_text(
        "models:\n  a: &a {source: a/b, label: A}\n  b: {<<: *a, label: B}\n"
    )
    assert check(tmp_path, "study.yaml") == (0, "sound: 2 models\n")


CHINESE = "models:\n  a: {source: a/b, label: 心理学对话模型}\nprompts: [我睡不着怎么办, 你好]\n"


@pytest.mark.parametrize(
    ("text", "codec", "name"),
    [
        (CHINESE, "gbk", "GBK"),
        (CHINESE + "# 镕 喆\n", "gbk", "GB18030"),
        ("models:\n  a: {source: a/b, label: 心理學對話模型，請問怎麼辦}\n", "big5", "BIG5"),
        (CHINESE, "utf-16", "UTF-16"),
        ("models:\n  a: {source: a/b, label: Modèle réglé}\n", "latin-1", "WINDOWS-1252"),
    ],
)
def test_a_file_in_another_encoding_is_named_with_the_way_out(told, tmp_path, text, codec, name):
    said = told(text.encode(codec))
    line = 1 if codec == "utf-16" else 2
    assert f"study.yaml, line {line}, column" in said
    command = f"iconv -f {name} -t UTF-8 'study.yaml' > 'study.utf8.yaml'"
    assert command in said
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert check(tmp_path, "study.utf8.yaml")[0] == 0


def test_a_byte_order_mark_and_tabs_in_json_are_no_errors(tmp_path):
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfsoftware: active\n")
    (tmp_path / "study.json").write_text('{\n\t"prompts": ["a\\tb \\ud83d\\ude00"]\n}')
    for name in ("bom.yaml", "study.json"):
        assert check(tmp_path, name) == (0, "sound: an empty study\n")


def test_a_file_that_is_not_there_has_a_nearest_name(tmp_path):
    (tmp_path / "study.yaml").touch()
    status, said = check(tmp_path, "stduy.yaml")
    assert status == 1
    assert f"stduy.yaml: no such config file (from {tmp_path}); did you mean 'study.yaml'?" in said
    assert "can't be read: Is a directory" in check(tmp_path, str(tmp_path))[1]


def test_a_target_behind_configfile_is_taken_for_a_file_and_says_so(tmp_path):
    """`snakemake --configfile study.yaml plan`: --configfile takes all words up to an option."""
    status, said = check(tmp_path, "plan")
    assert status == 1
    assert (
        f"plan: no such config file (from {tmp_path}); a target stands before --configfile" in said
    )

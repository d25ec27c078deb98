"""Benchmarks as their authors publish them: a folder or an archive on disk is taken as it is."""

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import fetch_benchmark
import pytest
from sftflow.config.schema import presets
from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_json, read_jsonl
from sftflow.inputs import trees
from support import EVALSCOPE, ROOT

CEVAL = "id,question,A,B,C,D,answer\n"
CMMLU = "\ufeff,Question,A,B,C,D,Answer\n"  # with a byte order mark, and numbered rows
MADE = {
    "ceval": {
        "val/law_val.csv": CEVAL + '0,"红,黄\n和蓝",暖,冷,原色,无,C\n1,松,草,木,藤,菌,B\n',
        "val/logic_val.csv": CEVAL + "0,水稻,草,木,藤,菌,A\n",
        "dev/law_dev.csv": CEVAL[:-1] + ",explanation\n" + "0,白,暖,冷,原,无,D,因为。\n" * 5,
        "dev/logic_dev.csv": CEVAL[:-1] + ",explanation\n" + "0,藻,草,木,藤,菌,D,因为。\n" * 5,
        "test/law_test.csv": "id,question,A,B,C,D\n0,?,1,2,3,4\n",
    },
    "cmmlu": {
        "test/arts.csv": CMMLU + '0,"红,黄\n和蓝",暖,冷,原色,无,C\n',
        "test/agronomy.csv": CMMLU + "0,水稻,草,木,藤,菌,A\n1,松,草,木,藤,菌,B\n",
        "dev/arts.csv": CMMLU + "0,白,暖,冷,原色,无,D\n" * 5,
        "dev/agronomy.csv": CMMLU + "0,藻,草,木,藤,菌,D\n" * 5,
    },
    "mmlu": {
        "test/anatomy_test.csv": '"Which, of these?",a,b,c,d,B\nAnd this?,1,2,3,4,D\n',
        "test/virology_test.csv": "Who?,a,b,c,d,A\n",
        "dev/anatomy_dev.csv": "Why?,a,b,c,d,C\n" * 5,
        "dev/virology_dev.csv": "When?,a,b,c,d,C\n" * 5,
        "val/anatomy_val.csv": "How?,a,b,c,d,C\n",
        "auxiliary_train/arc_easy.csv": "Huh?,a,b,c,d,C\n",
    },
    "gsm8k": {
        "test.jsonl": json.dumps({"question": "1 + 1?", "answer": "2\n#### 2"}) + "\n",
        "train.jsonl": json.dumps({"question": "1 + 2?", "answer": "3\n#### 3"}) + "\n",
        "test_socratic.jsonl": json.dumps({"question": "No.", "answer": "#### 0"}) + "\n",
    },
    "super_gpqa": {
        "SuperGPQA-all.jsonl": json.dumps({
            "uuid": "1", "question": "?", "options": ["w", "x"], "answer": "x",
            "answer_letter": "B", "field": "Law", "discipline": "Law",
        }) + "\n",
    },
}  # fmt: skip
WHOLE = {
    "ceval": {"law": 2, "logic": 1},
    "cmmlu": {"agronomy": 2, "arts": 1},
    "mmlu": {"anatomy": 2, "virology": 1},
    "gsm8k": {"main": 1},
    "super_gpqa": {"Law": 1},
}
FIRST = {
    "ceval": {"id": 0, "question": "红,黄\n和蓝", "A": "暖", "B": "冷", "C": "原色", "D": "无",
              "answer": "C", "explanation": ""},
    "cmmlu": {"question": "水稻", "choices": ["(A) 草", "(B) 木", "(C) 藤", "(D) 菌"],
              "answer": "(A)", "category": "agronomy"},
    "mmlu": {"question": "Which, of these?", "subject": "anatomy", "choices": list("abcd"),
             "answer": 1},
}  # fmt: skip


def folder(top: Path, files: dict[str, str], prefix: str = "") -> Path:
    for name, text in files.items():
        path = top / prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    return top


def zipped(path: Path, files: dict[str, str], prefix: str = "") -> Path:
    """With what macOS adds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"{prefix}{name}", text)
        archive.writestr("__MACOSX/test/._arts.csv", b"\x00\xff")
    return path


def tarred(path: Path, files: dict[str, str], prefix: str = "") -> Path:
    form = {".gz": "w:gz", ".xz": "w:xz"}.get(path.suffix, "w")
    with tarfile.open(path, form) as archive:  # type: ignore[call-overload]
        for name, text in files.items():
            member = tarfile.TarInfo(f"{prefix}{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


FORMS = {
    "folder": lambda top, files: folder(top / "it", files),
    "below folders": lambda top, files: folder(top / "it", files, "download/data"),
    "zip": lambda top, files: zipped(top / "it.zip", files),
    "zip with a top folder": lambda top, files: zipped(top / "it.zip", files, "it-main/data/"),
    "zip in a folder": lambda top, files: zipped(top / "it/x.zip", files).parent,
    "flat": lambda top, files: folder(
        top / "it", {Path(n).name if Path(n).stem.count("_") else n: t for n, t in files.items()}
    ),
    "unpacked beside half a zip": lambda top, files: folder(
        folder(top / "it", {"x.zip": "PK"}), files
    ),
    "unpacked beside its zip": lambda top, files: folder(
        zipped(top / "it/x.zip", files).parent, files
    ),
    "tar": lambda top, files: tarred(top / "it.tar", files, "data/"),
    "tar.gz": lambda top, files: tarred(top / "it.tar.gz", files, "./data/"),
}


def fetched(top: Path, source: Path, monkeypatch, dataset: str, **changes) -> dict:
    settings = presets()[dataset] | {"source": str(source), "hub": None, "shots": 0} | changes
    arguments = ["--benchmark", "b", "--settings", json.dumps(settings)]
    output = ["--output", str(top / "out/manifest.json")]
    monkeypatch.setattr(sys, "argv", ["fetch_benchmark.py", *arguments, *output])
    fetch_benchmark.main()
    return read_json(top / "out/manifest.json")


@pytest.mark.parametrize("dataset", MADE)
def test_one_digest_in_whatever_form_it_lies_on_disk(tmp_path, monkeypatch, dataset):
    digests = set()
    for name, make in FORMS.items():
        top = tmp_path / name
        top.mkdir()
        shots = 5 if dataset in ("ceval", "cmmlu", "mmlu") else 0
        made = fetched(top, make(top, MADE[dataset]), monkeypatch, dataset, shots=shots)
        assert made["subsets"] == WHOLE[dataset], name
        digests.add(made["digest"])
    assert len(digests) == 1
    if dataset in FIRST:
        found = [row for path in top.glob("out/data/*/[tv]*.jsonl") for row in read_jsonl(path)]
        assert FIRST[dataset] in found


def test_what_is_less_than_published_is_told(tmp_path, monkeypatch, capsys):
    made = fetched(tmp_path, folder(tmp_path / "it", MADE["ceval"]), monkeypatch, "ceval")
    assert made["notes"] == [
        "other counts than published: law 2 (of 24), logic 1 (of 22)",
        "50 of 52 published subsets are not here: computer_network, operating_system, "
        "computer_architecture, college_programming, college_physics, …",
    ]
    assert "other counts than published" in capsys.readouterr().out


def test_subsets_that_an_archive_lacks_name_those_it_has(tmp_path, monkeypatch):
    source = folder(tmp_path / "it", MADE["ceval"])
    with pytest.raises(UserError, match=r"did you mean 'law'\?\)(.*)Valid names: law, logic"):
        fetched(tmp_path, source, monkeypatch, "ceval", subsets=["laws"])
    kept = {name: text for name, text in MADE["ceval"].items() if not name.startswith("dev/law")}
    source = folder(tmp_path / "less", kept)
    with pytest.raises(UserError, match=r"there is no dev/law_dev\.csv in the source"):
        fetched(tmp_path, source, monkeypatch, "ceval", shots=5)


@pytest.mark.parametrize(
    ("dataset", "table", "message"),
    [
        ("cmmlu", ",Question,A,B,C,Answer\n0,?,1,2,3,A\n", r"test/arts\.csv: no column D; there"),
        ("cmmlu", CMMLU + "0,?,1,2,3,4,A\n1,?,1,2,3,4,E\n", "row 2: the answer is 'E', none of A"),
        ("cmmlu", CMMLU + "0,?,1,2\n", r"row 1 \(line 2\): 4 cells, where the header has 7"),
        ("cmmlu", CMMLU + '0,"?,1,2,3,4,A\n0,?,1,2,3,4,A\n', r"arts\.csv, line 2: .*double quote"),
        ("mmlu", "Why?,a,b,c,d\n", r"row 1 \(line 1\): 5 cells, where there must be 6"),
        ("mmlu", "Why?,a,b,c,d,1\n", "the answer is '1', none of A to D"),
        ("ceval", "id,question,A,B,C,D\n0,?,1,2,3,4\n", "no column answer; there are id, question"),
    ],
)
def test_a_table_that_is_not_as_expected_is_an_error_that_says_where(
    tmp_path, monkeypatch, dataset, table, message
):
    name = {"cmmlu": "test/arts.csv", "mmlu": "test/art_test.csv", "ceval": "val/art_val.csv"}
    settings = presets()[dataset]
    with pytest.raises(UserError, match=message):
        source = fetch_benchmark.opened(
            zipped(tmp_path / "a/x.zip", {name[dataset]: table}).parent, "", settings
        )
        source.rows(source.configs()[0], settings["eval_split"])


def test_cmmlus_archive_goes_before_what_its_readme_names(tmp_path):
    """On a hub its tables lie in an archive, whatever the README.md beside it says."""
    zipped(tmp_path / "cmmlu_v9.zip", MADE["cmmlu"])
    named = fetch_benchmark.benchmarks.front_matter({"agronomy": {"test": "agronomy/test-*"}})
    folder(tmp_path, {"README.md": named})
    source = fetch_benchmark.opened(tmp_path, "", presets()["cmmlu"])
    assert FIRST["cmmlu"] in source.rows("default", "test")


def test_the_questions_twice_are_not_chosen_from(tmp_path):
    folder(tmp_path, MADE["ceval"], "old")
    folder(tmp_path, MADE["ceval"], "new")
    with pytest.raises(UserError, match="more than once; give one as source: new/, old/"):
        fetch_benchmark.opened(tmp_path, "", presets()["ceval"])


# --- archives that are not as they should be ------------------------------------------------------


def read(top: Path) -> dict[str, bytes]:
    return {name: content() for name, content in trees.tree(top).items()}


@pytest.mark.parametrize("name", ["../x.csv", "/etc/x.csv", "a/../../x.csv", "C:\\x.csv", "..\\x"])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_path_that_leads_out_of_its_archive_is_refused(tmp_path, pack, name):
    (tmp_path / "in").mkdir()
    pack(tmp_path / ("in/a.zip" if pack is zipped else "in/a.tar"), {name: "x"})
    with pytest.raises(UserError, match=r"in/a|a\.(zip|tar) holds a path that leads out of it"):
        read(tmp_path / "in")
    assert sorted(p.name for p in tmp_path.rglob("*")) in (["a.zip", "in"], ["a.tar", "in"])


def test_links_and_devices_in_a_tar_are_no_files(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"link{kind.decode()}.csv")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert read(tmp_path) == {}


def test_an_encrypted_zip_says_so(tmp_path):
    path = zipped(tmp_path / "a.zip", {"x.csv": "x"})
    packed = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag in both headers
        packed[packed.index(mark) + offset] |= 1
    path.write_bytes(packed)
    with pytest.raises(UserError, match=r"a\.zip/x\.csv is encrypted: unpack it"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
@pytest.mark.parametrize("left", [3, 200, 512, 1024])
def test_a_broken_archive_says_so(tmp_path, name, left):
    """Cut off anywhere, also between two of a tar's files: none is left out silently."""
    pack = zipped if name == "a.zip" else tarred
    path = pack(tmp_path / name, {"x.csv": "", "y.csv": ""})
    whole = path.read_bytes()
    path.write_bytes(whole[: left if name == "a.tar" else left * len(whole) // 1100])
    with pytest.raises(UserError, match=rf"cannot read {name}.*is it whole"):
        read(tmp_path)


@pytest.mark.parametrize("encoding", ["gbk", "utf-8"])
def test_chinese_names_in_a_zip_that_does_not_say_their_encoding(tmp_path, encoding):
    zipped(tmp_path / "a.zip", {"xxxxxxxxxxxx"[: len("心理".encode(encoding))] + ".csv": "x"})
    raw = (tmp_path / "a.zip").read_bytes()
    raw = raw.replace(
        b"x" * len("心理".encode(encoding)) + b".csv", "心理".encode(encoding) + b".csv"
    )
    (tmp_path / "a.zip").write_bytes(raw)
    assert list(trees.tree(tmp_path)) == ["a.zip/心理.csv"]


@pytest.mark.slow
@pytest.mark.skipif(not EVALSCOPE.exists(), reason="needs envs/evalscope")
def test_the_hubs_forms_have_the_digest_of_the_authors(tmp_path, monkeypatch):
    """Parquet with and without its README.md, `save_to_disk`; a clone without its large files."""
    of_authors = fetched(
        tmp_path, zipped(tmp_path / "it.zip", MADE["mmlu"]), monkeypatch, "mmlu", shots=5
    )
    rows = {
        path.name.partition("-")[0]: list(read_jsonl(path))
        for path in (tmp_path / "out/data/all").iterdir()
    }
    program = """
import json, sys
from pathlib import Path
import datasets
top, rows = Path(sys.argv[1]), json.loads(sys.argv[2])
made = datasets.DatasetDict({s: datasets.Dataset.from_list(r) for s, r in rows.items()})
for form in ("bare", "named"):
    for split, table in made.items():
        path = top / form / "all" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(path)
made.save_to_disk(top / "saved/all")
made.save_to_disk(top / "saved, no config")
"""
    subprocess.run(
        [str(EVALSCOPE), "-c", program, tmp_path / "hubs", json.dumps(rows)],
        check=True,
        capture_output=True,
    )
    named = {"all": {split: f"all/{split}-*" for split in rows}}
    readme = {"README.md": fetch_benchmark.benchmarks.front_matter(named)}
    folder(tmp_path / "hubs/named", readme)
    pointers = {f"all/{split}-00000-of-00001.parquet": POINTER for split in rows}
    folder(tmp_path / "hubs/pointers", readme | pointers)
    came = {}
    for form in sorted((tmp_path / "hubs").iterdir()):
        settings = presets()["mmlu"] | {"source": str(form), "hub": None, "shots": 5}
        output = tmp_path / "fetched" / form.name / "manifest.json"
        command = [str(EVALSCOPE), ROOT / "scripts/fetch_benchmark.py", "--benchmark", "b"]
        told = ["--settings", json.dumps(settings), "--output", output]
        done = subprocess.run([*command, *told], capture_output=True, text=True)
        came[form.name] = done.stderr if done.returncode else read_json(output)["digest"]
    assert "-00000-of-00001.parquet is a pointer of Git LFS, not the" in came.pop("pointers")
    assert came == dict.fromkeys(
        ["bare", "named", "saved", "saved, no config"], of_authors["digest"]
    )


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 99\n"


def test_a_pointer_of_git_lfs_is_no_data(tmp_path, monkeypatch):
    source = folder(tmp_path / "it", {"test.jsonl": POINTER})
    with pytest.raises(UserError, match=r"test\.jsonl is a pointer of Git LFS.*git lfs pull"):
        fetched(tmp_path, source, monkeypatch, "gsm8k")
    source = folder(tmp_path / "own", {"sleep_val.csv": POINTER})
    with pytest.raises(UserError, match=r"sleep_val\.csv is a pointer of Git LFS"):
        fetched(tmp_path, source, monkeypatch, "general_mcq")


def test_a_folder_of_hugging_faces_cache_is_its_newest_snapshot(tmp_path, monkeypatch):
    cache = tmp_path / "datasets--x--y"
    folder(cache / "snapshots/aaaa", MADE["ceval"])
    assert fetched(tmp_path, cache, monkeypatch, "ceval")["subsets"] == WHOLE["ceval"]
    folder(cache / "snapshots/bbbb", MADE["cmmlu"])
    with pytest.raises(UserError, match=r"several snapshots.*aaaa, bbbb"):
        fetched(tmp_path, cache, monkeypatch, "ceval")
    folder(cache, {"refs/main": "aaaa"})
    assert fetched(tmp_path, cache, monkeypatch, "ceval")["subsets"] == WHOLE["ceval"]


@pytest.mark.parametrize("path", ["../../etc/x.jsonl", "/etc/x.jsonl"])
def test_a_readme_names_no_file_outside_its_folder(tmp_path, path):
    outside = folder(tmp_path, {"etc/x.jsonl": "{}\n"})
    files = {"main": {"test": path}}
    folder(outside / "a/b", {"README.md": fetch_benchmark.benchmarks.front_matter(files)})
    source = fetch_benchmark.opened(outside / "a/b", "", presets()["gsm8k"])
    with pytest.raises(UserError, match="names no file, or one that is not there: main/test"):
        source.rows("main", "test")


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".x", "a\\b", "a\nb", " ", "x" * 300])
def test_no_subset_is_called_what_no_file_can_be(tmp_path, name):
    row = {"question": "?", "subject": name, "choices": list("abcd"), "answer": 1}

    class Made:
        def configs(self) -> list[str]:
            return [name]

        def rows(self, config: str, split: str) -> list[dict]:
            return [row | dict.fromkeys("ABCD", "x") | {"answer": "A" if split == "val" else 1}]

    for dataset in ("mmlu", "ceval"):
        settings = presets()[dataset] | {"shots": 0, "subsets": None}
        with pytest.raises(UserError, match="is the name of files, too"):
            fetch_benchmark.copy_published(Made(), tmp_path / "data", settings)
    assert not (tmp_path / "x").exists()


def test_a_few_thousand_questions_in_many_files_take_no_time(tmp_path):
    """C-Eval's and CMMLU's 119 tables; a bound far above a tenth of a second, far below minutes."""
    import time

    files = {f"val/s{n}_val.csv": CEVAL + "0,问题,甲,乙,丙,丁,A\n" * 100 for n in range(119)}
    settings = presets()["ceval"] | {"shots": 0, "subsets": None}
    zipped(tmp_path / "it/a.zip", files)
    begun = time.process_time()
    source = fetch_benchmark.opened(tmp_path / "it", "", settings)
    subsets, _ = fetch_benchmark.copy_published(source, tmp_path / "data", settings)
    assert sum(subsets.values()) == 11900
    assert time.process_time() - begun < 5

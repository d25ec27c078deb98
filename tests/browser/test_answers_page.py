"""The page of answers in a real browser: filters, search, links, keys, phone, dark, hostile texts,
and how fast a filter over 20,000 answers is."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
from sftflow.reporting import browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="needs chromium"),
]

STUDY = {
    "subjects": {name: {"label": f"Model {name}"} for name in ("base", "tuned")},
    "benchmarks": {name: {"label": None} for name in ("mmlu", "gsm8k")},
    "languages": ["en", "zh"],
}
HOSTILE = [
    "</script><script>document.title='run'</script>",
    "<img src=x onerror=\"document.title='run'\"><iframe src=https://example.org></iframe>",
    "\u202egnp.exe \u2067אבג\u2066 مرحبا",
    "\x1b[2J\x1b]0;title\x07\x1b[31mred",
    "[click](javascript:alert(1)) {{ 7*7 }} ${7*7} &lt;b&gt; \x00",
]


def answer(stated: str | None, target: str, text: str, *traits: str) -> dict:
    score = float(stated == target)
    ending = "cut off" if "truncated" in traits else "complete"
    return {
        "answer": text, "stated": stated, "read": stated or "", "score": score, "ending": ending,
        "traits": [*traits, *(() if stated else ("unparsed",))],
    }  # fmt: skip


def made_up(questions: int, long: int = 0) -> browser.Shown:
    """Of two benchmarks; `long` is the length of prompts and answers in words."""
    chance, words = random.Random(1), [f"word{n}" for n in range(5000)]
    shown = browser.Shown([("base", "tuned")])
    for n in range(questions):
        benchmark, subset = ("mmlu", f"subject {n % 57}") if n % 4 else ("gsm8k", "main")
        target, other = chance.sample("ABCD", 2)
        tail = " ".join(chance.choices(words, k=long))
        key = f"{n:012x}".ljust(64, "0")
        asked = [subset, n, [["user", f"Question number {n}?\n{tail}"]], target]
        shown.questions.setdefault(benchmark, {})[key] = asked
        for subject, share in (("base", 0.4), ("tuned", 0.6)):
            stated = target if chance.random() < share else chance.choice([other, None])
            traits = ["truncated"] if n % 10 == 0 else []
            traits += ["contaminated"] if n % 25 == 0 and subject == "tuned" else []
            text = HOSTILE[n] if n < len(HOSTILE) else f"ANSWER: {stated} {tail}"
            mine = shown.answers.setdefault(subject, {}).setdefault(benchmark, {})
            mine[key] = [answer(stated, target, text, *traits)]
    return shown


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("answers") / "it's a 页.html"
    file.write_text(browser.page(STUDY, made_up(200)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def tab(tmp_path_factory) -> Iterator[chromium.Page]:
    with chromium.page(tmp_path_factory.mktemp("profile")) as found:
        yield found
    assert not found.errors and not found.requests


def count(tab: chromium.Page) -> str:
    return tab.do("document.getElementById('count').textContent")


def expected(holds) -> int:
    """How many of the small page's questions have a (base, tuned) of answers like this."""
    shown, total = made_up(200), 0
    for benchmark, questions in shown.questions.items():
        for key in questions:
            total += holds(*(shown.answers[s][benchmark][key][0] for s in ("base", "tuned")))
    return total


FILTERS = {
    "Fixed": lambda base, tuned: tuned["score"] > base["score"],
    "Broken": lambda base, tuned: tuned["score"] < base["score"],
    "Unstated": lambda *both: any("unparsed" in one["traits"] for one in both),
    "Cut off": lambda *both: any("truncated" in one["traits"] for one in both),
    "Misread": lambda *both: any("misread" in one["traits"] for one in both),
    "Contaminated": lambda *both: any("contaminated" in one["traits"] for one in both),
}


def test_filters_leave_what_they_name(tab, small):
    tab.open(small)
    assert count(tab) == "200 / 200 questions"
    for name, holds in FILTERS.items():
        button = f"b => b.textContent.startsWith('{name}')"
        tab.do(f"[...document.querySelectorAll('#filters button')].find({button}).click()")
        assert count(tab) == f"{expected(holds)} / 200 questions", name
    tab.open(small, "#benchmark=gsm8k&show=Contaminated")
    assert count(tab) == "2 / 200 questions"
    tab.open(small, "#benchmark=mmlu&subset=subject 3")
    assert count(tab) == "3 / 200 questions"


def test_a_search_and_a_link_find_a_question(tab, small):
    tab.open(small)
    tab.press("/")
    tab.press(*"number 117?")
    tab.wait("document.getElementById('count').textContent.startsWith('1 /')")
    link = tab.do("document.querySelector('article a').getAttribute('href')")
    key = f"{117:012x}"
    assert f"question={key}" in link
    tab.open(small, f"#question={key}")
    chosen = tab.do("document.querySelector('article.chosen').textContent")
    assert "Question number 117?" in chosen and "Model base" in chosen and "Model tuned" in chosen
    tab.open(small, "#subject=tuned&benchmark=gsm8k")  # as a score of the report leads here
    assert count(tab) == "50 / 200 questions"


def test_keys_go_through_the_questions(tab, small):
    tab.open(small)
    chosen = "[...document.querySelectorAll('article')].findIndex(a => a.className === 'chosen')"
    tab.press("j", "j", "ArrowRight", "k")
    assert tab.do(chosen) == 2
    tab.press(*"j" * 18)
    assert tab.do(chosen) == 0  # of the next page
    assert tab.do("document.getElementById('place').textContent") == "21 – 40 / 200"
    assert "question=" in tab.do("location.hash")


def test_hostile_answers_do_nothing_and_are_shown(tab, small):
    tab.open(small)
    for number, text in enumerate(HOSTILE):
        tab.do(f"location.hash = '#question={number:012x}'")
        tab.wait(
            f"document.querySelector('article.chosen')?.textContent.includes('number {number}?')"
        )
        shown = tab.do("document.querySelector('article.chosen section pre').textContent")
        as_pictures = "".join(chr(0x2400 + ord(c)) if ord(c) < 32 else c for c in text)
        assert shown == as_pictures
    assert tab.do("document.title") == "Answers side by side"
    elements = "document.querySelectorAll('main img, main iframe, main script').length"
    assert tab.do(elements) == 0
    # a turned text turns nothing outside its box
    left = "document.querySelector('article.chosen {}').getBoundingClientRect().left"
    assert tab.do(left.format("dt")) < tab.do(left.format("dd"))


def test_phone_dark_and_chinese(tab, small):
    tab.open(small, "#language=zh&show=Fixed", width=390, dark=True)
    assert tab.do("document.documentElement.scrollWidth") <= 390
    places = tab.do("[...document.querySelector('.sides').children].map(s => s.offsetLeft)")
    assert len(set(places)) == 1  # below each other
    assert tab.do("document.title") == "回答对照" and count(tab).endswith("题")
    assert tab.do("getComputedStyle(document.body).backgroundColor") == "rgb(15, 21, 32)"


def test_a_filter_over_20_000_answers_takes_less_than_two_seconds(tab, tmp_path):
    file = tmp_path / "answers.html"
    file.write_text(browser.page(STUDY, made_up(10_000, long=150)), encoding="utf-8")
    begun = time.perf_counter()
    tab.open(file)
    took = {"open": time.perf_counter() - begun}
    for name, change in {
        "fixed": "{show: 'Fixed'}",
        "search": "{show: 'All', search: 'word4321 '}",
        "search again": "{search: 'word1234 '}",
        "benchmark": "{search: '', benchmark: 'mmlu'}",
    }.items():
        begin, drawn = "const begin = performance.now()", "document.body.offsetHeight"
        steps = f"{begin}; go({change}); {drawn}; return performance.now() - begin"
        took[name] = tab.do(f"(() => {{ {steps} }})()") / 1000
    print(f"{file.stat().st_size / 1e6:.1f} MB", took)
    assert max(took[name] for name in took if name != "open") < 2
    assert count(tab) == "7,500 / 10,000 questions"

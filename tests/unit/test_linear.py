"""What is read of an answer, an option or a row takes a time that grows with its length."""

import gc
import time

import pytest
from sftflow.dialogue import behaviour, judging
from sftflow.evaluation import stated
from sftflow.inputs import folded, sharegpt
from sftflow.inputs.sharegpt import CALL, parts

CHOICE = stated.Form("choice", ("memory", "sleep"))
NUMBER = stated.Form("number")
READERS = {
    "choice": lambda text: stated.stated(text, CHOICE),
    "number": lambda text: stated.stated(text, NUMBER),
    "reasoning": stated.reasoning_apart,
    "option": folded.without_label,
    "fold": folded.fold,
    "calls": lambda text: parts(CALL, text),
    "results": lambda text: sharegpt.results({"role": "tool", "content": text}),
    "marker": lambda text: list(behaviour.MARKER.finditer(text)),
    "refusal": lambda text: behaviour.REFUSAL.search(text),
    "verdict": lambda text: judging.verdict(text, "stop"),
    "points": lambda text: judging.points(text, "stop"),
}
UNITS = (*" \n\taA1-=#*<[选答", "\u3000", "A.", "1,", "[[", "<think>", "<tool_call>",
         "<tool_response>", "</think>", "\n ", "x\n")  # fmt: skip
AROUND = (("x", "x"), ("The answer is", "B"), ("<tool_response>", "x"), ("<tool_call>", ""))
BLINK = 0.1  # seconds of CPU: 4,000 characters take a hundredth, or a quarter of this


def seconds(read, text):
    """CPU time, without that of searching for garbage in all that the suite has made so far."""
    gc.disable()
    begun = time.thread_time()
    read(text)
    took = time.thread_time() - begun
    gc.enable()
    return took


@pytest.mark.parametrize("name", READERS)
def test_time_grows_with_the_length(name):
    """The worst pattern took 3.9 s for 2,000 blanks, and 35 s for 4,000."""
    read = READERS[name]
    for before, after in AROUND:
        for unit in UNITS:
            short, long = (before + unit * (size // len(unit)) + after for size in (1000, 4000))
            if seconds(read, short) > BLINK:
                pytest.fail(f"{unit!r} after {before!r}")
            took = seconds(read, long)
            if took > BLINK:
                ratio = took / min(seconds(read, short) for _ in range(3))
                assert ratio < 8, f"{unit!r} after {before!r}: {ratio:.1f} times for 4 times"


def test_results_are_read_as_before():
    def texts(content):
        return [each["content"] for each in sharegpt.results({"role": "tool", "content": content})]

    one = "<tool_response>\n a b \n</tool_response>"
    assert texts(f" {one}\n{one} ") == ["a b", "a b"]
    assert texts(f"{one} more") == [f"{one} more"]
    assert texts(f"{one}<tool_response>") == [f"{one}<tool_response>"]
    assert texts("<tool_response></tool_response>") == [""]
    assert texts("plain") == ["plain"] and texts(" ") == [" "]
    assert parts(CALL, "a<tool_call>b</tool_call>c<tool_call>") == ["a", "b", "c<tool_call>"]

"""Whatever a server sends is brought into one form before it is kept."""

import contextlib
import sys
from types import SimpleNamespace

import pytest
from sftflow.evaluation.session import Session
from sftflow.serving.client import Server, ServerError
from sftflow.serving.completions import NoAnswer, filtered, normalised, withheld
from sftflow.serving.measure import SPEED_TOKENS, crowd

USUAL = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "endpoint",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "B"}}
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}


def answered(message=None, **changes):
    """(content, finish reason) of a completion with changes."""
    choice = {**USUAL["choices"][0], "message": {"role": "assistant"} | (message or {})}
    choice |= {key: changes.pop(key) for key in ("finish_reason", "index") if key in changes}
    made = normalised({**USUAL, "choices": [choice], **changes}, "endpoint")
    assert normalised(made, "endpoint") == made, "what is kept stays as it is"
    return made["choices"][0]["message"]["content"], made["choices"][0]["finish_reason"]


def test_the_usual_form_stays():
    assert normalised(USUAL, "endpoint") == USUAL


@pytest.mark.parametrize(
    ("message", "changes", "found"),
    [
        ({"content": None}, {"finish_reason": "length"}, ("", "length")),
        ({}, {"finish_reason": "content_filter"}, ("", "content_filter")),
        ({"content": "No."}, {"finish_reason": "sensitive"}, ("No.", "sensitive")),
        ({"content": "B"}, {"finish_reason": None}, ("B", None)),
        ({"content": "B"}, {"finish_reason": {"type": "stop"}}, ("B", None)),
        ({"content": "B"}, {"created": 1234.5, "id": None, "object": "text"}, ("B", "stop")),
        ({"content": "B"}, {"created": float("nan")}, ("B", "stop")),
        ({"content": "B"}, {"created": "yesterday", "usage": {"prompt_tokens": None}},
         ("B", "stop")),
        ({"content": "B", "tool_calls": [{"odd": 1}], "audio": 7}, {}, ("B", "stop")),
        ({"content": ["AN", {"type": "text", "text": "SWER: B"}]}, {}, ("ANSWER: B", "stop")),
        ({"content": [{"type": "thinking", "thinking": "hm"}, {"text": "B"}]}, {}, ("B", "stop")),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, {}, ("", "stop")),
        ({"content": 4}, {}, ("4", "stop")),
        ({"content": "B"}, {"index": "first"}, ("B", "stop")),
    ],
)  # fmt: skip
def test_odd_completions_are_answers(message, changes, found):
    assert answered(message, **changes) == found


def test_what_was_thought_and_why_it_was_refused_are_kept():
    message = {"content": None, "reasoning_content": "hm", "refusal": "No."}
    made = normalised({"choices": [{"message": message, "finish_reason": "length"}]}, "m")
    assert made["choices"][0]["message"] == {"role": "assistant", "content": "", **message} | {
        "content": ""
    }
    assert "usage" not in made


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ({"error": {"message": "no such model", "code": 404}}, "no such model"),
        ({"choices": []}, "no answer"),
        ({"choices": None, "detail": "busy"}, "busy"),
        ({"choices": ["B"]}, "no answer"),
        ("<html>Sign in</html>", "no completion.*Sign in"),
        (None, "no completion"),
    ],
)
def test_what_holds_no_answer_is_an_error(response, message):
    with pytest.raises(NoAnswer, match=message):
        normalised(response, "m")


FILTERS = [
    {"code": "content_filter", "message": "…", "innererror": {"code": "x"}},
    {"code": "400", "innererror": {"code": "ResponsibleAIPolicyViolation"}},
    {"code": "data_inspection_failed", "message": "Input data may contain inappropriate content."},
    {"code": "1301", "message": "系统检测到输入或生成内容可能包含不安全或敏感内容"},
    {"message": "Content Exists Risk", "type": "invalid_request_error"},
    {"type": "content_filter", "message": "The request was rejected: high risk"},
]
OTHERS = [
    {"code": "context_length_exceeded", "message": "the prompt is too long"},
    {"message": "A case-sensitive name is wanted for the field content"},
    {"code": 400, "type": None, "message": None},
    "bad request",
    None,
]


@pytest.mark.parametrize("error", FILTERS)
def test_a_content_filter_says_so(error):
    assert filtered(error)
    assert normalised({"error": error}, "m") == withheld("m")
    assert withheld("m")["choices"][0]["finish_reason"] == "content_filter"


@pytest.mark.parametrize("error", OTHERS)
def test_another_error_is_no_content_filter(error):
    assert not filtered(error)


class Refusal(Exception):
    def __init__(self, status: int, body: object):
        super().__init__("refused")
        self.status_code, self.body, self.message = status, body, "refused"


def ask(monkeypatch, answer, backend="endpoint"):
    """What comes of one question; `answer` is the client's, or raised by it."""
    sent = []

    def create(**request):
        sent.append(request)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(model_dump=lambda exclude_none, warnings: answer)

    errors = SimpleNamespace(APIConnectionError=OSError, APIStatusError=Refusal)
    monkeypatch.setitem(sys.modules, "openai", errors)
    session = SimpleNamespace(
        _mutex=contextlib.nullcontext(),
        _client=SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create))),
        _running=SimpleNamespace(model="x"),
        _look=lambda: None,
        ended=None,
        spec=SimpleNamespace(backend=backend),
    )
    request = {"messages": [], "max_tokens": 9, "repetition_penalty": 1}
    made, _ = Session.ask(session, request)
    assert sent == [
        {"model": "x", "messages": [], "extra_body": {"max_tokens": 9, "repetition_penalty": 1}}
    ]
    return made


def test_an_answer_without_text_is_kept_with_its_reason(monkeypatch):
    odd = {"created": 1.5, "choices": [{"message": {}, "finish_reason": "sensitive"}]}
    made = ask(monkeypatch, odd)
    assert made["choices"][0]["finish_reason"] == "sensitive"
    assert made["choices"][0]["message"]["content"] == ""


def test_what_an_endpoints_filter_refuses_is_an_empty_answer(monkeypatch):
    assert ask(monkeypatch, Refusal(400, FILTERS[0])) == withheld("endpoint")
    for refusal in (Refusal(400, OTHERS[0]), Refusal(500, FILTERS[0])):
        with pytest.raises(ServerError, match=f"HTTP {refusal.status_code}: refused"):
            ask(monkeypatch, refusal)
    with pytest.raises(ServerError, match="HTTP 400"):  # ours has no filter
        ask(monkeypatch, Refusal(400, FILTERS[0]), backend="transformers")
    with pytest.raises(ServerError, match="no answer"):
        ask(monkeypatch, {"error": {"message": "busy"}})


def test_speed_of_a_server_that_does_not_count_is_unknown(monkeypatch):
    running = Server("http://x/v1", "m", "k", stated={"repetition_penalty": 1})
    asked = []

    def json(path, body, timeout):
        asked.append(body)
        return {"choices": [{"message": {"content": "Hi"}}]}

    monkeypatch.setattr(running, "json", json)
    assert crowd(running, 2) is None
    about = {key: value for key, value in asked[0].items() if key != "messages"}
    assert about == {
        "model": "m", "max_tokens": SPEED_TOKENS, "temperature": 0, "repetition_penalty": 1
    }  # fmt: skip
    monkeypatch.setattr(running, "json", lambda *_: {"error": {"message": "no such model"}})
    with pytest.raises(ServerError, match=r"http://x/v1/chat/completions: .*no such model"):
        running.chat([], 5)

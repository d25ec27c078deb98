"""Whatever a server sends is brought into one form before it is kept."""

import contextlib
from types import SimpleNamespace

import pytest
from sftflow.evaluation.session import Session
from sftflow.serving import client
from sftflow.serving.client import Server, ServerError
from sftflow.serving.completions import NoAnswer, filtered, normalised, same_model, withheld
from sftflow.serving.measure import SPEED_TOKENS, crowd
from support import with_openai

with_openai()

from scripted import Reply, Service

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


def ask(reply, backend="endpoint"):
    """What comes of one question to a service with this reply."""
    with Service(reply) as service:
        running = Server(service.url, "x", "k")
        # a server of ours is one with a process
        running.process = None if backend == "endpoint" else SimpleNamespace(poll=lambda: None)
        session = SimpleNamespace(
            _mutex=contextlib.nullcontext(), _running=running, ended=None,
            spec=SimpleNamespace(backend=backend),
        )  # fmt: skip
        request = {"messages": [], "max_tokens": 9, "repetition_penalty": 1}
        made, _ = Session.ask(session, request)
        assert service.posted() == [{"model": "x", **request}]
        return made


def test_an_answer_without_text_is_kept_with_its_reason():
    odd = {"created": 1.5, "choices": [{"message": {}, "finish_reason": "sensitive"}]}
    made = ask(Reply(odd))
    assert made["choices"][0]["finish_reason"] == "sensitive"
    assert made["choices"][0]["message"]["content"] == ""


def test_a_server_of_ours_may_call_its_model_as_it_likes():
    """ms-swift's names the folder of the weights."""
    named = Reply(USUAL | {"model": "weights"})
    assert "served_model" not in ask(named, backend="transformers")
    assert ask(named)["served_model"] == "weights"


def test_what_an_endpoints_filter_refuses_is_an_empty_answer(monkeypatch):
    monkeypatch.setattr(client, "ENDING", 0.0)
    assert ask(Reply({"error": FILTERS[0]}, 400)) == withheld("endpoint")
    for status, error in ((400, OTHERS[0]), (500, FILTERS[0])):
        with pytest.raises(ServerError, match=f"HTTP {status}: "):
            ask(Reply({"error": error}, status))
    with pytest.raises(ServerError, match="HTTP 400"):  # ours has no filter
        ask(Reply({"error": FILTERS[0]}, 400), backend="transformers")
    with pytest.raises(ServerError, match="no answer"):
        ask(Reply({"error": {"message": "no such model"}}))


def test_speed_of_a_server_that_does_not_count_is_unknown():
    with Service(Reply({"choices": [{"message": {"content": "Hi"}}]})) as service:
        running = Server(service.url, "m", "k", stated={"repetition_penalty": 1})
        assert crowd(running, 2) is None
        about = {key: value for key, value in service.posted()[0].items() if key != "messages"}
        assert about == {
            "model": "m", "max_tokens": SPEED_TOKENS, "temperature": 0, "repetition_penalty": 1
        }  # fmt: skip
        service.replies = [Reply({"error": {"message": "no such model"}})]
        with pytest.raises(ServerError, match=r"/v1/chat/completions: .*no such model"):
            running.chat([], 5)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("openai/gpt-4o", "gpt-4o", True),
        ("GPT-4", "gpt-4-0613", True),
        ("models/gemini-pro", "gemini-pro-latest", True),
        ("org/model:free", "org/model", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4", "gpt-4o", False),
        ("qwen2-7b", "qwen2.5-7b", False),
        ("qwen2", "qwen2.5", False),
        ("llama-3", "llama-3-70b", False),
    ],
)
def test_names_of_one_model(one, other, same):
    assert same_model(one, other) == same_model(other, one) == same

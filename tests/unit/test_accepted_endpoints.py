"""Each row of docs/accepted/endpoints.md is what a service with that behaviour comes to."""

import json
import re

import pytest
from sftflow.evaluation.stated import reasoning_apart
from sftflow.serving import client, measure, server
from sftflow.serving.backends import Spec
from support import ROOT, with_openai

with_openai()

from scripted import Reply, Service, completion

PAGE = (ROOT / "docs/accepted/endpoints.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| (.+?) \| (answer|asked again|error) \|", PAGE, re.M))
LISTED = Reply({"data": [{"id": "another"}]})
PIECE = b'data: {"choices": [{"delta": {"content": "B"}, "finish_reason": "stop"}]}\n\n'
USUAL = Reply(completion())
WRONG = json.dumps(completion("XX")).encode().replace(b"XX", b"\xff")


def error(status: int, **said) -> Reply:
    return Reply({"error": said or {"message": "no"}}, status)


# The service's behaviour: its replies to a question (each of several is tried), or those and its
# list of models, or more keys of the endpoint.
SERVICES: dict[str, dict] = {
    "has no list of models": {"models": error(404), "tried": [USUAL]},
    "lists another model, and answers as that one": {
        "models": LISTED, "tried": [Reply(completion(model="another"))],
    },
    "answers as a dated version of the model": {"tried": [Reply(completion(model="m-2024-08-06"))]},
    "answers as another model": {"tried": [Reply(completion(model="another"))]},
    "counts no tokens": {"tried": [Reply(completion(usage=None))]},
    "does not stream": {"tried": [USUAL]},
    "streams unasked": {"tried": [Reply(PIECE)]},
    "content null": {"tried": [Reply(completion(None))]},
    "content a list of parts": {"tried": [Reply(completion([{"type": "text", "text": "B"}]))]},
    "a finish reason of its own, or none": {
        "tried": [Reply(completion(finish_reason=reason)) for reason in ("eos", None, 3)],
    },
    "thoughts beside the content": {
        "tried": [Reply(completion("B", message={"reasoning_content": "hm"}))],
    },
    "half of a surrogate pair": {"tried": [Reply(completion("\ud800"))]},
    "text that is not UTF-8": {"tried": [Reply(WRONG)]},
    "more than a million characters": {"tried": [Reply(completion("B" * 1_000_001))]},
    "a content filter refuses with 4xx": {
        "tried": [error(status, code="content_filter") for status in (400, 403)],
    },
    "HTTP 408, 409, 425, 429, 5xx": {"tried": [error(status) for status in sorted(client.PASSING)]},
    "a connection reset or cut": {"tried": [Reply(way="reset"), Reply(completion(), way="cut")]},
    "nothing, or a byte now and then": {
        "tried": [Reply(way="hang"), Reply(completion(), way="trickle")],
    },
    "JSON that is cut off": {"tried": [Reply(b'{"choices": [{"mes')]},
    "HTTP 200 that says it is busy": {"tried": [error(200, message="overloaded")]},
    "HTTP 200 with another error": {"tried": [error(200, message="no such model")]},
    "HTTP 429 of an empty account": {"tried": [error(429, code="insufficient_quota")]},
    "HTTP 400, 401, 403, 404, 422": {"tried": [error(s) for s in (400, 401, 403, 404, 422)]},
    "a wait beyond the deadline": {"tried": [Reply({}, 429, {"Retry-After": "4000"})]},
    "a redirect": {"tried": [Reply({}, 307, {"Location": "/there"})]},
    "a web page": {"tried": [Reply(b"<!doctype html><p>hello")]},
    "more than 64 MiB": {"tried": [Reply(completion("B" * 3_000_000))]},  # of fewer, here
    "wants a parameter left out or called otherwise": {
        "endpoint": {"omit": ["temperature"], "rename": {"max_tokens": "max_completion_tokens"}},
        "tried": [USUAL],
    },
    "wants more in the body, or other headers": {
        "endpoint": {"extra_body": {"a": 1}, "headers": {"X-A": "b"}}, "tried": [USUAL],
    },
}  # fmt: skip


def comes_to(reply: Reply, models: Reply | None, endpoint: dict) -> str:
    about = {"url": "", "model": "m", "retries": 1, "timeout": 0.5, "deadline": 4, **endpoint}
    with Service(reply, USUAL, models=models) as service:
        spec = Spec(serving={"backend": "endpoint"}, endpoint=about | {"url": service.url})
        try:
            running = server.connect(spec)
            measure.stream(running)
        except client.ServerError:
            return "error"
        return "answer" if len(service.posted()) == 2 else "asked again"


@pytest.mark.parametrize("row", SERVICES)
def test_a_row_is_what_happens(row, monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    if "64 MiB" in row:
        assert client.LARGEST == 64 * 2**20
        monkeypatch.setattr(client, "LARGEST", 2**20)
    about = SERVICES[row]
    for reply in about["tried"]:
        found = comes_to(reply, about.get("models"), about.get("endpoint", {}))
        assert found == ROWS[row], reply


def test_every_row_is_tried():
    assert list(SERVICES) == list(ROWS)


def test_every_form_of_thoughts_is_known():
    named = re.findall(r"`([<\[◁]\S+?[>\]▷])`", PAGE.partition("Blocks of")[2])
    assert len(named) == 8
    for opening in named:
        assert reasoning_apart(f"{opening}x") == (f"{opening}x", None)

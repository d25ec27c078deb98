"""Somebody else's service, as it is: asked through the real openai library over a local socket."""

import gzip
import http.server
import json
import random
import threading
import time

import pytest
from sftflow.core.cli import UserError
from sftflow.core.jsonio import canonical
from sftflow.evaluation.answers import answer_store
from sftflow.serving import backends, client, measure, server
from sftflow.serving.completions import normalised
from support import with_openai

with_openai()

from scripted import Reply, Service, completion, later

KEY = "canary-4b5f0c9e2d"
QUESTION = {"messages": [{"role": "user", "content": "Which?"}], "max_tokens": 9, "temperature": 0}


@pytest.fixture(autouse=True)
def no_wait(monkeypatch):
    monkeypatch.setenv("SERVICE_KEY", KEY)
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    monkeypatch.setattr(client, "LONGEST_BACKOFF", 0.02)


def spec(service, generation=(), **changes):
    """A Spec of the service as the endpoint `m`."""
    endpoint = {"url": service.url, "model": "m", "version": "1", "key_env": "SERVICE_KEY",
                "retries": 3, "timeout": 5, "deadline": 20} | changes  # fmt: skip
    settings = {"serving": {"backend": "endpoint"}, "endpoint": endpoint,
                "generation": dict(generation)}  # fmt: skip
    arguments = dict.fromkeys(["python", "environment", "weights", "adapter", "threads"])
    return backends.Spec.of(settings, type("Arguments", (), arguments)())


def connected(service, **changes):
    return server.connect(spec(service, **changes))


def asked(*replies, **changes):
    """(answer, seconds) of one question to a service with these replies."""
    with Service() as service:
        running = connected(service, **changes)
        service.replies = list(replies)
        return running.ask(QUESTION, "endpoint")


def text(answer):
    return answer["choices"][0]["message"]["content"]


def test_a_service_without_a_list_of_models_is_asked():
    for status in (404, 405, 501, 403, 500):
        with Service(models=Reply({"message": "no"}, status)) as service:
            assert connected(service).probe == "ANSWER: B"
    for odd in ({"data": None}, ["m"], {"models": [{"name": "m"}]}, {"data": [{"id": 7}]}):
        with Service(models=Reply(odd)) as service:
            assert connected(service).probe == "ANSWER: B"
    with Service(models=Reply(b"<html>hello</html>")) as service:
        assert connected(service).models == []


def test_the_model_that_is_meant():
    listed = Reply({"data": [{"id": "gpt-4o-2024-08-06"}, {"id": "other"}]})
    with Service(models=listed) as service:
        assert connected(service, model="openai/gpt-4o").probe
    with Service(Reply(completion(model="llama")), models=listed) as service:
        with pytest.raises(client.ServerError, match=r"serves \['gpt-4o-2024.*not m: it is not"):
            connected(service)


def test_another_model_in_the_answer_is_recorded():
    answer, _ = asked(Reply(completion(model="gpt-3.5-turbo")))
    assert answer["served_model"] == "gpt-3.5-turbo" and answer["model"] == "endpoint"
    assert normalised(answer, "endpoint") == answer
    assert "served_model" not in asked(Reply(completion()))[0]


def test_addresses_with_paths_names_with_slashes_and_query_strings():
    for end in ("", "/", "/chat/completions", "/chat/completions/"):
        with Service() as service:
            service.url = service.url.replace("/v1", f"/a/b/v1{end}?api-version=2024-10&x=1")
            running = connected(service, model="org/some model:free")
            assert running.ask(QUESTION, "endpoint")
            assert {a["path"] for a in service.asked} == {
                f"/a/b/v1/{path}?api-version=2024-10&x=1" for path in ("models", "chat/completions")
            }
            assert {body["model"] for body in service.posted()} == {"org/some model:free"}


def test_headers_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("AZURE", "azure-secret-1")
    with Service() as service:
        connected(service, headers={"api-key": "${AZURE}", "X-Title": "a $$ b"}, key_env=None)
        assert all(
            a["headers"]["api-key"] == "azure-secret-1" and a["headers"]["x-title"] == "a $ b"
            for a in service.asked
        )
    with pytest.raises(UserError, match="the header X needs the environment variable NONE: set it"):
        client.Manner.of({"headers": {"X": "$NONE"}})
    monkeypatch.setenv("AZURE", "two\nlines-of-secret")
    with pytest.raises(UserError, match="line break") as told:
        client.Manner.of({"headers": {"X": "$AZURE"}})
    assert "secret" not in str(told.value)


def test_what_a_service_refuses_is_left_out_or_renamed():
    with Service() as service:
        running = connected(
            service, omit=["temperature"], rename={"max_tokens": "max_completion_tokens"},
            extra_body={"reasoning_effort": "low"},
        )  # fmt: skip
        running.chat(QUESTION["messages"], 9)
        measure.stream(running)
        for body in service.posted():
            assert "temperature" not in body and "max_tokens" not in body
            assert body["max_completion_tokens"] and body["reasoning_effort"] == "low"
        # evaluation states the extra body itself, since it is a part of the request's digest
        running.ask(QUESTION, "endpoint")
        assert "temperature" not in service.posted()[-1]


@pytest.mark.parametrize("thinking", [True, False, None])
def test_whether_to_think_is_stated_in_each_request_to_our_own_servers(thinking):
    own = backends.Spec(serving={"backend": "vllm"}, model={"thinking": thinking})
    with Service() as service:
        running = client.Server(service.url, "m", "k", manner=own.manner)
        running.chat([], 5)
        measure.stream(running)
        running.ask(QUESTION, "vllm")
        for body in service.posted():
            stated = body.get("chat_template_kwargs", {}).get("enable_thinking")
            assert stated is thinking and len(service.posted()) == 3


@pytest.mark.parametrize("status", sorted(client.PASSING))
def test_a_status_that_passes_is_asked_again(status):
    again = Reply({"error": {"message": "later"}}, status)
    answer, seconds = asked(again, again, Reply(completion()))
    assert text(answer) == "ANSWER: B" and seconds < 1


@pytest.mark.parametrize("wait", ["0.3", lambda: later(1.5), "0", "-5", "soon", "nan", "9" * 400])
def test_retry_after_is_heeded(wait):
    stated = wait if isinstance(wait, str) else wait()
    begun = time.monotonic()
    answer, seconds = asked(
        Reply({}, 429, {"Retry-After": stated}), Reply(completion()), deadline=10
    )
    took = time.monotonic() - begun
    assert text(answer) == "ANSWER: B"
    assert seconds < 0.25, "the latency is that of the last attempt"
    assert took > {"0.3": 0.3}.get(stated, 0.4 if callable(wait) else 0)


def test_a_wait_beyond_the_deadline_is_not_begun():
    begun = time.monotonic()
    with pytest.raises(client.ServerError, match=r"deadline of 2 s"):
        asked(Reply({"error": "slow down"}, 429, {"Retry-After": "3600"}), deadline=2)
    assert time.monotonic() - begun < 2


def test_readiness_is_as_patient_as_asking():
    busy = Reply({"error": {"message": "busy"}}, 429, {"Retry-After": "0"})
    with Service(busy, Reply({}, 503), Reply(completion()), models=Reply({}, 503)) as service:
        running = connected(service)
        service.replies = [busy, Reply(completion()), Reply({}, 503), Reply(completion())]
        speed = measure.measure(running, spec(service))["speed"]
        assert speed["tokens_per_second"] and speed["tokens_per_second_concurrent"]
        service.replies = [Reply({"error": "no streams"}, 400)]
        speed = measure.measure(running, spec(service))["speed"]
        assert speed["tokens_per_second"] is speed["tokens_per_second_concurrent"] is None


def test_streams_are_measured_and_put_together():
    pieces = [{"choices": [{"delta": {"content": part}}]} for part in ("ANSW", "ER: B")]
    pieces += [{"choices": [{"delta": {}, "finish_reason": "stop"}]}]
    lines = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces) + "data: [DONE]\n\n"
    streamed = Reply(lines.encode(), headers={"Content-Type": "text/event-stream"})
    assert text(asked(streamed)[0]) == "ANSWER: B"
    with Service(streamed) as service:
        first, speed = measure.stream(connected(service))
        assert first is not None and speed is None
    with pytest.raises(client.ServerError, match="stream ended before"):
        asked(Reply(lines.partition("\n\n")[0].encode()), retries=0)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply({"error": {"message": "bad key"}}, 401), r"401.*SERVICE_KEY \(key_env\)"),
        (Reply({"error": {"message": "pay"}}, 402), "nothing left to spend"),
        (Reply({"error": {"code": "insufficient_quota"}}, 429), "nothing left to spend"),
        (Reply({"error": {"message": "model not found"}}, 404), "own name of the model"),
        (Reply({"error": {"message": "slow down"}}, 429), "concurrency"),
        (Reply({"error": {"message": "Unsupported parameter: 'seed'"}}, 400), r"omit: \[seed\]"),
        (Reply({"error": {"message": "'max_tokens' is not supported; use another"}}, 400),
         "rename"),
        (Reply({"error": {"message": "maximum context length is 4096 tokens"}}, 400),
         "fewer shots"),
        (Reply(b"<html><title>Please log in</title></html>"), r"web page.*Please log in"),
        (Reply(b"<html>502</html>", 502), "HTTP 502"),
        (Reply({"error": {"message": "no such thing"}}), "no answer.*no such thing"),
        (Reply(b""), "sent nothing"),
        (Reply(b'{"choices": [{"mess'), "no JSON"),
        (Reply(b"[" * 100_000), "no JSON"),
        (Reply(b"null"), "no completion"),
        (Reply(way="reset"), "does not answer"),
        (Reply(completion(), way="cut"), "does not answer"),
        (Reply({}, 307, {"Location": "http://127.0.0.1:9/v1"}), "redirects to http://127.0.0.1:9"),
        (Reply({}, 302, {"Location": "/login"}), "redirects to /login"),
    ],
)  # fmt: skip
def test_what_brings_no_answer_is_one_clear_error(reply, said):
    with pytest.raises(client.ServerError, match=f"(?s){said}") as told:
        asked(reply, retries=1)
    message = str(told.value)
    assert KEY not in message and len(message) < 1500
    if "fewer shots" not in said:
        assert "too long" not in message, "advice only where it fits"


def test_a_connection_that_its_server_is_about_to_close_is_not_used_again():
    """uvicorn, so ms-swift's and vLLM's server, closes a connection that was idle for 5 s; a
    question sent in that moment came back as "Server disconnected", and a whole suite failed."""
    body = json.dumps(completion("ANSWER: B")).encode()
    connections = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            if self.connection in connections:  # it is closed, not answered
                self.close_connection = True
                return
            connections.append(self.connection)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        running = client.Server(f"http://127.0.0.1:{listening.server_port}/v1", "m", "none")
        for _ in range(2):
            answer, _ = running.ask(QUESTION, "m")
            assert text(answer) == "ANSWER: B"
        running.close()
        listening.shutdown()
    assert len(connections) == 2


def test_a_redirect_never_takes_the_key_along():
    with Service() as thief:
        away = Reply({}, 308, {"Location": f"{thief.url}/models"})
        with Service(models=away) as service:
            with pytest.raises(client.ServerError, match="That is not followed"):
                connected(service)
        with Service(Reply({}, 307, {"Location": f"{thief.url}/chat/completions"})) as service:
            with pytest.raises(client.ServerError, match="That is not followed"):
                connected(service)
        assert not thief.asked


@pytest.mark.slow
def test_a_service_that_hangs_or_trickles_is_given_up():
    for way in ("hang", "trickle"):
        begun = time.monotonic()
        with pytest.raises(client.ServerError, match=r"timeout|deadline"):
            asked(Reply(completion("x" * 400), way=way), timeout=0.3, deadline=1.0)
        assert time.monotonic() - begun < 2.5


def test_the_key_is_told_to_nobody(caplog, capfd):
    echo = {"error": {"message": f"wrong key {KEY}", "headers": f"Bearer {KEY}"}}
    for status in (200, 400, 401, 500):
        with pytest.raises(client.ServerError) as told:
            asked(Reply(echo, status), retries=0)
        assert KEY not in str(told.value) and "***" in str(told.value)
    assert KEY not in text(asked(Reply(completion(f"I was sent {KEY}")))[0])
    with Service() as service:
        assert KEY not in repr(connected(service)) + repr(spec(service))
    assert KEY not in caplog.text + "".join(capfd.readouterr())


def test_a_key_that_no_header_can_hold(monkeypatch):
    monkeypatch.setenv("SERVICE_KEY", f"{KEY}\n")  # from a file
    assert text(asked(Reply(completion()))[0]) == "ANSWER: B"
    monkeypatch.setenv("SERVICE_KEY", f"{KEY}\nsecond")
    with pytest.raises(UserError, match=r"SERVICE_KEY.*line break") as told:
        asked(Reply(completion()))
    assert KEY not in str(told.value)


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (Reply(b'{"choices": [{"message": {"content": "a\\ud83d b"}}]}'), "a\ufffd b"),
        (Reply(b'{"choices": [{"message": {"content": "a\\u0000b"}}]}'), "a\0b"),
        (Reply(b'\xef\xbb\xbf{"choices": [{"message": {"content": "B"}}]}'), "B"),
        (Reply('{"choices": [{"message": {"content": "选择B"}}]}'.encode("gbk"),
               headers={"Content-Type": "application/json; charset=gbk"}), "选择B"),
        (Reply(b'{"choices": [{"message": {"content": "\xff B"}}]}'), "\ufffd B"),
        (Reply('{"choices": [{"message": {"content": "é"}}]}'.encode(),
               headers={"Content-Type": "application/json; charset=latin-1"}), "é"),
        (Reply(gzip.compress(json.dumps(completion("B")).encode()),
               headers={"Content-Encoding": "gzip"}), "B"),
        (Reply(completion(None, message={"reasoning_content": "hm"})), ""),
        (Reply(completion("B", created=10**400, usage={"prompt_tokens": 10**400})), "B"),
        (Reply(completion("B"), headers={"Content-Type": "text/plain"}), "B"),
    ],
)  # fmt: skip
def test_odd_text_is_an_answer(reply, found):
    answer, _ = asked(reply)
    assert text(answer) == found
    assert json.loads(canonical(answer)) == answer


def test_a_huge_answer_is_one_that_was_cut_off():
    answer, _ = asked(Reply(completion("B " * 2_000_000)))
    assert len(text(answer)) == 1_000_000 and answer["choices"][0]["finish_reason"] == "length"


def test_a_response_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(client, "LARGEST", 10_000)
    with pytest.raises(client.ServerError, match="more than"):
        asked(Reply(completion("B" * 20_000)), retries=0)


# --- fuzz ----------------------------------------------------------------------------------------

SCRIPTS = 400
NASTY = ["B", "", None, "a\ud800", "\0", "é选" * 50, "<think>x", "<think>x</think>B", ["B", None],
         [{"type": "text", "text": "B"}], [{"type": "image"}, 7], {"text": "B"}, 3, True,
         "B" * 9999, KEY]  # fmt: skip
VALUES = [None, True, -1, 1.5, 10**400, "x", "a\udfff", [], {}, [[]], {"a": [1]}]


def any_completion(draw: random.Random) -> object:
    """A completion of which something may be odd."""
    made = completion(draw.choice(NASTY), finish_reason=draw.choice(["stop", "length", *VALUES]))
    for place in (made, made["choices"][0], made["choices"][0]["message"]):
        for name in list(place):
            if draw.random() < 0.08:
                place[name] = draw.choice(VALUES)
            elif draw.random() < 0.04:
                del place[name]
    return made


def any_reply(draw: random.Random) -> Reply:
    if draw.random() < 0.45:
        return Reply(any_completion(draw))
    kind = draw.random()
    if kind < 0.5:
        content: object = any_completion(draw)
    elif kind < 0.7:
        words = ["no", f"Bearer {KEY}", "content_filter", "context length", "seed is unsupported"]
        error = {"message": draw.choice([*words, None, 3]), "code": draw.choice(VALUES)}
        content = draw.choice([{"error": error}, {"error": "no"}, error, {}, [], "no", None])
    else:
        content = draw.choice(
            [b"", b"<html>login</html>", b"data: [DONE]\n\n", b'data: {"choices": 3}\n\n', b"{]",
             b": ping\n\n", b"\xff\xfe\x00", b"[" * 5000, b"NaN", b'{"a": 1}{"b": 2}']
        )  # fmt: skip
    reply = Reply(content, draw.choice([200, 200, 200, 201, 204, 302, 400, 401, 403, 404, 408, 409,
                                        413, 422, 425, 429, 500, 502, 503, 504, 529]))  # fmt: skip
    if draw.random() < 0.4:
        waits = ["0", "0.01", "-1", "x", "", "1e9", "99999", later(-5), later(1e6)]
        reply.headers = {"Retry-After": draw.choice(waits)}
    if draw.random() < 0.2:
        odd = {"Content-Type": draw.choice(["text/html", "x", "text/event-stream",
                                            "application/json; charset=nope"])}  # fmt: skip
        reply.headers |= odd
    if draw.random() < 0.1:
        reply.headers |= {"Location": draw.choice(["http://127.0.0.1:9/", "//", "::", "/x"])}
    if draw.random() < 0.05:
        reply.headers |= {"Content-Encoding": "gzip"}  # which it is not
    if draw.random() < 0.1:
        reply.way = draw.choice(["reset", "cut", "hang", "trickle"])
    return reply


@pytest.mark.slow
def test_any_service_ends_in_an_answer_or_one_error(tmp_path):
    """SCRIPTS services: each answer can be written, read back and read again; nothing hangs."""
    outcomes = {"answer": 0, "error": 0}
    begun = time.monotonic()
    with Service() as service, answer_store(tmp_path / "a.jsonl") as store:
        running = connected(service, retries=2, timeout=0.1, deadline=0.3)
        for seed in range(SCRIPTS):
            draw = random.Random(seed)
            service.replies = [any_reply(draw) for _ in range(draw.randint(1, 3))]
            since = time.monotonic()
            try:
                answer, seconds = running.ask(QUESTION, "endpoint")
            except UserError as error:
                outcomes["error"] += 1
                message = str(error)
                assert message and len(message) < 1500 and KEY not in message, seed
                message.encode()
            else:
                outcomes["answer"] += 1
                stored = store.add(f"{seed}", 0, answer, seconds)["response"]
                assert store.get(f"{seed}", 0)["response"] == stored == answer, seed
                assert normalised(stored, "endpoint") == stored, seed
                assert KEY not in json.dumps(answer), seed
            assert time.monotonic() - since < 1.5, f"seed {seed} took long"
    assert min(outcomes.values()) > SCRIPTS / 8, outcomes
    with answer_store(tmp_path / "a.jsonl"):  # opens: every line is as it was written
        print(f"{outcomes} in {time.monotonic() - begun:.1f} s")

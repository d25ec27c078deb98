"""The one client: a server seen from outside, asked through the openai library.

Readiness and evaluation ask the same way, so what a server does to one it does to the other. A key
goes to the address that the user names and nowhere else: redirects are refused, local servers are
never asked through a proxy, and no error names it.
"""

import contextlib
import math
import os
import re
import string
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from sftflow.core import process, space
from sftflow.core.cli import UserError
from sftflow.serving import completions

LOCAL = "127.0.0.1,localhost,::1"
POLL = 0.2  # seconds between two looks at a server that starts
ENDING = 5.0  # seconds that a server whose engine has died may take to end itself
LOG_LINES = 40
ERRORS = 5  # the first ones that a log names
ERROR = re.compile(r"^(?:\(.*?\) )?(?:ERROR .*?\] )?((?:\w+\.)*\w*(?:Error|Exception): .+)$", re.M)

CONNECT = 30.0  # seconds that a connection may take
LARGEST = 64 * 2**20  # bytes of a response
SHOWN = 500  # characters of a server's words in an error
BACKOFF, LONGEST_BACKOFF = 0.5, 8.0  # seconds; doubled from attempt to attempt
PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}  # worth another attempt
SECRET = 8  # characters; what is shorter is no secret, and may be a word


class ServerError(UserError):
    """The server did not come up, ended, refused, or is not the one it should be."""


class NotReached(ServerError):
    """Nobody answered: refused, reset, timed out."""


class TimedOut(NotReached):
    """Somebody is there, who says nothing, or not all of it."""


class Refused(ServerError):
    """An HTTP status of 300 or more. `error`: the body, or its "error" if that is JSON; `wait`: in
    how many seconds the server wants to be asked again, if it says so."""

    def __init__(self, text: str, status: int, error: Any, wait: float | None = None):
        super().__init__(text)
        self.status, self.error, self.wait = status, error, wait


@dataclass(frozen=True)
class Manner:
    """How a server is asked.

    timeout: seconds of one attempt, connection and answer; deadline: seconds of a question with all
    its attempts and waits; retries: attempts after the first; omit: parameters that are not sent;
    rename: {parameter: the server's word for it}; extra: more of the body of each request; headers:
    {name: value}, where $NAME is the environment variable NAME; key_env: where the key came from.
    """

    timeout: float = 600.0
    deadline: float = 600.0
    retries: int = 0
    omit: tuple[str, ...] = ()
    rename: dict = field(default_factory=dict)
    extra: dict = field(default_factory=dict)
    headers: dict = field(default_factory=dict, repr=False)
    key_env: str | None = None

    @classmethod
    def of(cls, endpoint: dict) -> "Manner":
        """From an endpoint's settings. ServerError where a header names an unset variable."""
        known = {name: endpoint[name] for name in ("timeout", "deadline", "retries", "key_env")
                 if name in endpoint}  # fmt: skip
        return cls(
            **{"deadline": 3600.0, "retries": 8} | known,
            omit=tuple(endpoint.get("omit") or ()),
            rename=endpoint.get("rename") or {},
            headers={
                name: from_environment(value, f"the header {name}")
                for name, value in (endpoint.get("headers") or {}).items()
            },
        )


def from_environment(text: str, what: str) -> str:
    """A text whose $NAME and ${NAME} are environment variables; $$ is a dollar. ServerError."""
    try:
        return sendable(string.Template(text).substitute(os.environ), what)
    except KeyError as error:
        raise ServerError(
            f"{what} needs the environment variable {error.args[0]}: set it"
        ) from None
    except ValueError:
        raise ServerError(f"{what}: a dollar that names no variable is written $$") from None


def sendable(value: str, what: str) -> str:
    """A header's value without blanks around it. ServerError, without the value, for no such."""
    value = value.strip()
    if not value.isascii() or not value.isprintable():
        raise ServerError(
            f"{what} holds a line break or another character that no HTTP header can have"
        )
    return value


@dataclass
class Server:
    """A server that answers. `seconds`: {ready, import, load, first_answer}, as far as known.

    `stated`: what every request of `chat` and `stream` states beside its length and temperature 0.
    """

    url: str  # up to and including /v1; a query string goes with every request
    model: str
    key: str = field(repr=False)
    log: Path | None = None
    process: subprocess.Popen | None = None
    seconds: dict = field(default_factory=dict)
    models: list[str] = field(default_factory=list)
    probe: str = ""
    stated: dict = field(default_factory=dict)
    manner: Manner = field(default_factory=Manner)
    others: dict[str, int] = field(default_factory=dict)  # other models that answers name: how many
    _mutex: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @cached_property
    def local(self) -> bool:
        ours = self.process is not None
        return ours or urlsplit(self.url).hostname in LOCAL.split(",")

    @cached_property
    def client(self) -> Any:
        """openai's client: one attempt, no redirects, as many connections as are wanted."""
        import httpx
        from openai import Omit, OpenAI

        manner = self.manner
        address, _, query = self.url.partition("?")
        key = sendable(self.key, f"the key (environment variable {manner.key_env})")
        try:
            http = httpx.Client(
                # A connection for each question. An idle one may be closed as it is used again: by
                # its server, which many do after 5 s, or by another thread, to which it looked
                # expired (seen with 256 at once). Both fail a question that is worth seconds.
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
                follow_redirects=False,
                trust_env=not self.local,  # proxies of the environment
                event_hooks={"response": [_bound]},
            )
            # what OPENAI_ORG_ID and the like say is for OpenAI alone
            own = {"OpenAI-Organization": Omit(), "OpenAI-Project": Omit()}
            return OpenAI(
                api_key=key,
                base_url=address,
                default_headers=own | manner.headers,
                default_query=dict(parse_qsl(query)) or None,
                http_client=http,
                timeout=_timeout(manner.timeout),
                max_retries=0,  # `_attempts` knows a deadline, and which attempt an answer took
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise ServerError(
                f"{address}, or a proxy named in the environment, can't be used: {error}"
            ) from error

    def close(self) -> None:
        if "client" in self.__dict__:
            self.client.close()

    def check(self, patience: float = 0.0) -> None:
        """Raises ServerError, with its log, when the server has ended or ends within `patience` s.

        A server whose engine has died refuses requests for a while before it ends itself.
        """
        last = time.monotonic() + patience
        while self.process is not None:
            if self.process.poll() is not None:
                status = self.process.returncode
                if self.log and space.is_full(self.log.parent):  # which then says nothing
                    why = f"the disk of {self.log.parent} is full; {space.ROOM}"
                    raise ServerError(f"the server ended with status {status}: {why}")
                raise ServerError(f"the server ended with status {status}. {self.log_excerpt()}")
            if time.monotonic() >= last:
                return
            time.sleep(POLL)

    # --- asking ---

    def question(self, messages: list[dict], max_tokens: int) -> dict:
        """The body of a request at temperature 0."""
        stated = {name: value for name, value in self.stated.items() if name != "extra_body"}
        asked = {"messages": messages, "max_tokens": max_tokens, "temperature": 0}
        return {**asked, **stated, **self.stated.get("extra_body", {})}

    def chat(self, messages: list[dict], max_tokens: int, timeout: float | None = None) -> dict:
        """A chat completion at temperature 0, in the form of completions.py."""
        return self.ask(self.question(messages, max_tokens), self.model, timeout)[0]

    def ask(self, request: dict, label: str, deadline: float | None = None) -> tuple[dict, float]:
        """(completion in the form of completions.py, seconds of the attempt that brought it).

        `label` is its `model`; the server's own word stands beside it where it is another. What a
        content filter of an endpoint refuses is an empty answer. ServerError for anything else.
        """

        def attempt(timeout: float) -> tuple[dict, float]:
            begun = time.monotonic()
            try:
                with self._sending("/chat/completions"):
                    raw = self.client.chat.completions.with_raw_response.create(
                        **self._body(request), timeout=_timeout(timeout)
                    )
                said = self.clean(completions.decoded(raw.http_response))
                asked = self.model if self.process is None else None  # ours is proven otherwise
                answer = completions.normalised(completions.parsed(said), label, asked)
            except Refused as refused:
                if self.process is not None or not 400 <= refused.status < 500:
                    raise
                if not completions.filtered(refused.error):
                    raise
                answer = completions.withheld(label)
            return answer, round(time.monotonic() - begun, 3)

        answer, seconds = self._answered(attempt, deadline)
        if other := answer.get("served_model"):
            with self._mutex:
                self.others[other] = self.others.get(other, 0) + 1
        return answer, seconds

    def _answered(self, attempt: Callable[[float], Any], deadline: float | None) -> Any:
        with self._explained():
            return self._attempts(attempt, deadline)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """The end of a server of ours explains more than the question that it left unanswered."""
        try:
            yield
        except (NotReached, Refused) as error:
            if isinstance(error, NotReached) or error.status >= 500:
                self.check(ENDING)
            raise
        except completions.NoAnswer as error:
            raise ServerError(self.clean(f"{self._at('/chat/completions')}: {error}")) from None

    def get(self, path: str, timeout: float = 30.0, retries: int | None = None) -> Any:
        """The JSON of GET; `path` follows /v1. `timeout` (s) and `retries` are the manner's or
        less."""

        def attempt(left: float) -> Any:
            import httpx

            with self._sending(path):
                response = self.client.get(
                    path, cast_to=httpx.Response, options={"timeout": _timeout(left)}
                )
            return completions.parsed(self.clean(completions.decoded(response)))

        try:
            return self._attempts(attempt, timeout, retries)
        except completions.NoAnswer as error:
            where = f"{self._at(path)} is not OpenAI's API"
            raise ServerError(self.clean(f"{where}: {error}")) from None

    def stream(self, request: dict) -> list[tuple[float, dict]]:
        """(seconds since it was asked, piece) of a streamed answer; of one that comes whole, one.

        ServerError as `ask` raises it.
        """

        def attempt(timeout: float) -> list[tuple[float, dict]]:
            begun = time.monotonic()
            return [(time.monotonic() - begun, p) for p in self._pieces(request, timeout)]

        return self._answered(attempt, None)

    def pieces(self, request: dict) -> Iterator[dict]:
        """The pieces of a streamed answer as they come, asked for once; ServerError as of `ask`."""
        with self._explained():
            yield from self._pieces(request, self.manner.timeout)

    def _pieces(self, request: dict, timeout: float) -> Iterator[dict]:
        streamed = {"stream": True, "stream_options": {"include_usage": True}}
        create = self.client.chat.completions.with_streaming_response.create
        body = self._body(request | streamed)
        lines, streams = [], False
        with self._sending("/chat/completions"):
            with create(**body, timeout=_timeout(timeout)) as response:
                for line in response.iter_lines():
                    lines.append(line)
                    for piece in completions.chunks([line]):
                        streams = True
                        yield piece
        if not streams:  # it came whole
            yield completions.parsed(self.clean("\n".join(lines)))

    def clean(self, text: str) -> str:
        """A text without what this server must not see repeated: its key, secret headers."""
        for secret in {self.key, *self.manner.headers.values()}:
            if len(secret) >= SECRET:
                text = text.replace(secret, "***")
        return completions.storable(text)

    def _at(self, path: str) -> str:
        return self.url.partition("?")[0].rstrip("/") + path

    def _body(self, request: dict) -> dict:
        """openai's arguments of a request; what its signature does not know goes as it stands."""
        sent = {"model": self.model, **request, **self.manner.extra}
        rest = {
            self.manner.rename.get(name, name): value
            for name, value in sent.items()
            if name not in self.manner.omit or name in self.stated.get("extra_body", {})
        }
        known = {name: rest.pop(name) for name in ("model", "messages")}
        return {**known, "extra_body": rest}

    @contextlib.contextmanager
    def _sending(self, path: str) -> Iterator[None]:
        """What the client raises as NotReached or Refused, without a secret."""
        import httpx
        import openai

        try:
            yield
        except openai.APIStatusError as error:
            raise self._refused(error, path) from None
        except (openai.APITimeoutError, httpx.TimeoutException):
            raise TimedOut(f"{self._at(path)} sent no whole answer within its timeout") from None
        except (openai.APIConnectionError, httpx.RequestError) as error:
            reason = error.__cause__ or error
            words = f"{type(reason).__name__}: {reason}" if str(reason) else type(reason).__name__
            raise NotReached(self.clean(f"{self._at(path)} does not answer ({words})")) from None

    def _refused(self, error: Any, path: str) -> Refused:
        status, headers = error.status_code, error.response.headers
        said = self.clean(completions.decoded(error.response))
        words = " ".join(said.split())[:SHOWN] or error.response.reason_phrase
        what = "a question" if path == "/chat/completions" else path
        text = f"the server refused {what}: HTTP {status}: {words}"
        if 300 <= status < 400:
            target = self.clean(headers.get("location", "another address"))
            text = (
                f"{self._at(path)} redirects to {target} (HTTP {status}). That is not followed, "
                "because the key would go along: give the address it leads to as the endpoint's url"
            )
        elif told := advice(status, said, self):
            text += f". {told}"
        return Refused(text, status, error.body, retry_after(headers))

    def _attempts(
        self,
        attempt: Callable[[float], Any],
        deadline: float | None = None,
        retries: int | None = None,
    ) -> Any:
        """What the first attempt gives that comes through; `deadline` s for all, with waits.

        A server may say when to come again; else the waits double.
        """
        allowed = min(self.manner.deadline, deadline or self.manner.deadline)
        end = time.monotonic() + allowed
        most = min(self.manner.retries, self.manner.retries if retries is None else retries)
        for number in range(most + 1):
            try:
                return attempt(max(0.001, min(self.manner.timeout, end - time.monotonic())))
            except (NotReached, Refused, completions.Broken) as error:
                wait = getattr(error, "wait", None)
                again = not isinstance(error, Refused) or error.status in PASSING
                if wait is None and EMPTY_ACCOUNT.search(str(error)):  # waiting does not fill it
                    again = False
                if not again or number == most:
                    raise
                if wait is None:
                    wait = min(BACKOFF * 2**number, LONGEST_BACKOFF)
                if time.monotonic() + wait >= end:
                    late = f"{error}. It was asked {number + 1} times; the next attempt, in "
                    late += f"{wait:.3g} s, would be after the deadline of {allowed:g} s"
                    if isinstance(error, Refused):
                        raise Refused(late, error.status, error.error) from None
                    raise NotReached(late) from None
                time.sleep(wait)

    def log_excerpt(self) -> str:
        """The end of the server's log, and before it the errors that the log names.

        vLLM's engine is a process of its own. What ended it stands in the log above the tracebacks
        of those that waited for it.
        """
        if self.log is None:
            return ""
        text = self.log.read_text(errors="replace")
        errors = list(dict.fromkeys(match[1] for match in ERROR.finditer(text)))[:ERRORS]
        named = "".join(f"\n  {error}" for error in errors)
        tail = process.tail(self.log, LOG_LINES)
        return (f"Its log names:{named}\n" if named else "") + f"The end of {self.log}:\n{tail}"


# --- what a response says -----------------------------------------------------------------------

EMPTY_ACCOUNT = re.compile(
    r"insufficient[_ ](?:quota|balance|credit|funds)|exceeded your current quota|billing"
    r"|out of credit|余额不足|欠费",
    re.I,
)
TOO_LONG = re.compile(
    r"context[_ ](?:length|window|size)|maximum (?:context|model|sequence|input)|max_model_len"
    r"|(?:prompt|input|messages?|request)\b.{0,40}\btoo (?:long|large|many tokens)"
    r"|too many (?:input )?tokens|longer than|(?:上下文|输入|文本).{0,8}(?:过长|超长|超出|超过)",
    re.I,
)
UNKNOWN = re.compile(
    r"unsupported|unknown|unrecogni[sz]ed|not (?:supported|permitted|allowed|recogni[sz]ed)"
    r"|unexpected|extra (?:inputs|fields)|does not support|不支持|未知",
    re.I,
)
PARAMETERS = "temperature top_p top_k repetition_penalty max_tokens seed".split()


def advice(status: int, said: str, server: Server) -> str:
    """What to do about a refusal; "" where its words and status name no cause that we know."""
    refused = [name for name in PARAMETERS if re.search(rf"\b{name}\b", said)]
    if TOO_LONG.search(said):
        own = ", or a larger serving.max_model_len" if server.process else ""
        advised = (
            "A prompt that is too long for the model needs fewer shots, or a smaller max_tokens"
        )
        return advised + own
    if status == 402 or EMPTY_ACCOUNT.search(said):
        return "The account behind the key has nothing left to spend"
    if status in (401, 403) and server.process is None:
        if name := server.manner.key_env:
            return f"Is the key in the environment variable {name} (key_env) this service's?"
        return "If it wants a key, name the environment variable that holds it: key_env"
    if status == 404 and server.process is None:
        return (
            f"Is {server.model!r} the service's own name of the model, and does url end as it "
            "should, mostly with /v1?"
        )
    if status == 429:
        return "Lower serving.concurrency, or raise the endpoint's retries and deadline"
    if status in (400, 422) and refused and UNKNOWN.search(said) and server.process is None:
        named = f"omit: [{', '.join(refused)}]"
        if "max_tokens" in refused:
            return f"Leave it out ({named}), or give the service's word: rename: {{max_tokens: …}}"
        return f"Leave it out: {named}"
    return ""


def retry_after(headers: Any) -> float | None:
    """Seconds that a response asks to wait, stated as such or as a date; None where it does not."""
    text = headers.get("retry-after", "").strip()
    try:
        if milliseconds := headers.get("retry-after-ms"):
            seconds = float(milliseconds) / 1000
        elif re.fullmatch(r"[\d.]+", text):
            seconds = float(text)
        else:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _timeout(seconds: float) -> Any:
    import httpx

    return httpx.Timeout(seconds, connect=min(CONNECT, seconds))


def _bound(response: Any) -> None:
    """Let a response take no longer, and no more memory, than it may: a server can send a byte
    now and then for ever, which httpx's own timeouts allow."""
    import httpx

    class Bounded(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for chunk in stream:
                size += len(chunk)
                if size > LARGEST:
                    raise ServerError(f"the server sent more than {LARGEST / 2**20:g} MiB at once")
                if time.monotonic() > end:
                    raise httpx.ReadTimeout(f"not whole after {seconds:g} s")
                yield chunk

        def close(self) -> None:
            stream.close()

    stream, seconds = response.stream, response.request.extensions["timeout"]["read"]
    end = time.monotonic() + seconds
    response.stream = Bounded()

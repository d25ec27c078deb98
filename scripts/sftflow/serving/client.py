"""A server that answers, seen from outside."""

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from sftflow.core import process
from sftflow.core.cli import UserError
from sftflow.serving.completions import NoAnswer, normalised

LOCAL = "127.0.0.1,localhost,::1"
POLL = 0.2  # seconds between two looks at a server that starts
ENDING = 5.0  # seconds that a server whose engine has died may take to end itself
LOG_LINES = 40
ERRORS = 5  # the first ones that a log names
ERROR = re.compile(r"^(?:\(.*?\) )?(?:ERROR .*?\] )?((?:\w+\.)*\w*(?:Error|Exception): .+)$", re.M)


class ServerError(UserError):
    """The server did not come up, ended, or is not the one it should be."""


@dataclass
class Server:
    """A server that answers. `seconds`: {ready, import, load, first_answer}, as far as known.

    `stated`: generation settings that every request of `chat` and `stream` states.
    """

    url: str  # up to and including /v1
    model: str
    key: str
    log: Path | None = None
    process: subprocess.Popen | None = None
    seconds: dict = field(default_factory=dict)
    models: list[str] = field(default_factory=list)
    probe: str = ""
    stated: dict = field(default_factory=dict)

    def check(self, patience: float = 0.0) -> None:
        """Raises ServerError, with its log, when the server has ended or ends within `patience` s.

        A server whose engine has died refuses requests for a while before it ends itself.
        """
        last = time.monotonic() + patience
        while self.process is not None:
            if self.process.poll() is not None:
                status = self.process.returncode
                raise ServerError(f"the server ended with status {status}. {self.log_excerpt()}")
            if time.monotonic() >= last:
                return
            time.sleep(POLL)

    def request(self, path: str, body: dict | None = None, timeout: float = 600.0):
        """The open HTTP response of GET, or of POST with a JSON body; `path` follows /v1."""
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"},
        )
        local = urlsplit(self.url).hostname in LOCAL.split(",")
        proxies = urllib.request.ProxyHandler({} if local else None)
        return urllib.request.build_opener(proxies).open(request, timeout=timeout)

    def json(self, path: str, body: dict | None = None, timeout: float = 600.0) -> dict:
        try:
            with self.request(path, body, timeout) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")[:500]
            if error.code >= 500:
                self.check(ENDING)
            raise ServerError(f"the server refused {path}: HTTP {error.code}: {text}") from error
        except ValueError as error:  # not JSON
            raise ServerError(f"{self.url}{path} is not OpenAI's API: {error}") from error

    def question(self, messages: list[dict], max_tokens: int) -> dict:
        """The body of a request at temperature 0."""
        asked = {"model": self.model, "messages": messages, "max_tokens": max_tokens}
        return {**asked, "temperature": 0, **self.stated}

    def chat(self, messages: list[dict], max_tokens: int, timeout: float = 600.0) -> dict:
        """A chat completion at temperature 0, in the form of completions.py."""
        body = self.question(messages, max_tokens)
        try:
            return normalised(self.json("/chat/completions", body, timeout), self.model)
        except NoAnswer as error:
            raise ServerError(f"{self.url}/chat/completions: {error}") from error

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

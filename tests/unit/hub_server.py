"""A stand-in for a hub: a small HTTP server that answers what the hubs' own clients ask.

As much of Hugging Face's and ModelScope's interface as a fetch uses, with files from memory. Large
files (here: *.safetensors) are redirected to a second server under another host name, as both hubs
do; it counts what it sends and keeps the headers that it gets. A test plans faults in `faults`,
`cut`, `altered` and `silent`.
"""

import hashlib
import json
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """One repository, own/repo, at one commit, and what happened to it."""

    files: dict[str, bytes]
    token: str | None = None  # without it everything is refused
    granted: bool = True  # whether that token has access
    faults: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)
    # file: bytes sent before the line breaks, of one request after the other
    cut: dict[str, list[int]] = field(default_factory=dict)
    altered: dict[str, bytes] = field(default_factory=dict)  # what is sent instead of a file
    silent: str | None = None  # requests whose path matches are never answered
    asked: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)  # bytes of each file
    seen: list[str] = field(default_factory=list)  # secrets that came to the second server
    front: str = ""
    back: str = ""


class Handler(BaseHTTPRequestHandler):
    """What both hubs have in common: faults, access, ranges, redirects, broken lines."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        hub, path = self.hub, unquote(self.path)
        hub.asked.append(path)
        path = re.sub(r"^http://[^/]*", "", path)  # as a proxy is asked
        if hub.silent and re.search(hub.silent, path):
            time.sleep(20)
            self.close_connection = True
            return
        for number, (pattern, status, headers) in enumerate(hub.faults):
            if re.search(pattern, path):
                del hub.faults[number]
                self.reply(status, b"{}", headers)
                return
        if path == "/":
            self.reply(200, b"")
        elif path.startswith("/cdn/"):
            hub.seen += [
                value
                for name in ("Authorization", "Cookie")
                if (value := self.headers.get(name)) and hub.token and hub.token in value
            ]
            self.content(path.removeprefix("/cdn/"))
        elif hub.token and hub.token not in self.headers.get("Authorization", ""):
            self.refused(401)
        elif hub.token and not hub.granted:
            self.refused(403)
        else:
            self.answer(path)

    do_HEAD = do_GET

    def answer(self, path: str) -> None:
        raise NotImplementedError

    def refused(self, status: int) -> None:
        raise NotImplementedError

    def file(self, name: str) -> None:
        """A file, or the way to it."""
        content = self.hub.files[name]
        sha = hashlib.sha256(content).hexdigest()
        stated = {"X-Repo-Commit": COMMIT, "ETag": f'"{sha}"'}
        if name.endswith(".safetensors"):
            stated |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{sha}"'}
            stated |= {"Location": f"{self.hub.back}/cdn/{name}"}
            self.reply(302, b"", stated)
        else:
            self.content(name, stated)

    def content(self, name: str, headers: dict[str, str] | None = None) -> None:
        hub = self.hub
        content = hub.altered.get(name, hub.files[name])
        start = int(m[1]) if (m := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        headers = headers or {}
        if start:
            headers |= {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        cuts = hub.cut.get(name, []) if self.command == "GET" else []
        end = cuts.pop(0) if cuts else None
        part = content[start : None if end is None else start + end]
        if self.command == "GET":
            hub.sent[name] = hub.sent.get(name, 0) + len(part)
        self.reply(206 if start else 200, part, headers, len(content) - start)
        if end is not None:
            self.close_connection = True

    def reply(self, status, body=b"", headers=None, length=None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        headers = {"Content-Type": "application/json"} | (headers or {})
        self.reply(status, json.dumps(value).encode(), headers)

    def log_message(self, *_):
        pass


class HuggingFace(Handler):
    def answer(self, path):
        found = re.match(
            r"/(?:api/)?(?:(models|datasets)/)?own/repo(?:/(\w+)/([^/?]+))?/?([^?]*)", path
        )
        if not found:
            self.json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif found[3] not in (None, COMMIT, "main"):
            self.json(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        elif found[2] == "resolve":
            self.file(found[4])
        else:
            files = [self.entry(*item) for item in self.hub.files.items()]
            if found[2] == "tree":
                self.json(200, files)
            else:
                siblings = [file | {"rfilename": file["path"]} for file in files]
                for sibling in siblings:
                    sibling["blobId"] = sibling["oid"]
                self.json(200, {"id": "own/repo", "sha": COMMIT, "siblings": siblings})

    @staticmethod
    def entry(name: str, content: bytes) -> dict:
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry = {"type": "file", "path": name, "size": len(content), "oid": blob}
        if name.endswith(".safetensors"):
            sha = hashlib.sha256(content).hexdigest()
            more = {"size": len(content), "sha256": sha, "oid": sha, "pointerSize": 134}
            entry |= {"lfs": more, "oid": "0" * 40}
        return entry

    def refused(self, status):
        code = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to own/repo is restricted."}
        self.json(status, {"error": "gated"}, code)


class ModelScope(Handler):
    def answer(self, path):
        parts = urlsplit(path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        found = re.fullmatch(
            r"/api/v1/(models|datasets)/own/repo(?:/(repo(?:/files|/tree)?))?", parts.path
        )
        if not found or asked.get("Revision") not in (None, COMMIT, "master"):
            self.json(404, {"Code": 10010205001, "Success": False, "Message": "not found"})
        elif found[2] == "repo":
            self.file(asked["FilePath"])
        else:
            files = [
                {"Path": name, "Name": name, "Size": len(content), "Type": "blob"}
                | {"Revision": COMMIT, "CommittedDate": 1}
                | {"Sha256": hashlib.sha256(content).hexdigest()}
                for name, content in self.hub.files.items()
            ]
            self.json(200, {"Code": 200, "Success": True, "Data": {"Files": files}})

    def refused(self, status):
        self.json(status, {"Code": 10010101, "Success": False, "Message": "no access to own/repo"})


HUBS = {"huggingface": HuggingFace, "modelscope": ModelScope}
VARIABLES = {"huggingface": "HF_ENDPOINT", "modelscope": "MODELSCOPE_ENDPOINT"}


@contextmanager
def serving(name: str, hub: Hub):
    """`hub` under the interface of the hub of that name; `front` is its address."""
    handler = type("Bound", (HUBS[name],), {"hub": hub})
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), handler) as front,
        ThreadingHTTPServer(("127.0.0.1", 0), handler) as back,
    ):
        hub.front = f"http://127.0.0.1:{front.server_port}"
        hub.back = f"http://localhost:{back.server_port}"
        for server in (front, back):
            server.daemon_threads = True
            server.block_on_close = False
            threading.Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        front.shutdown()
        back.shutdown()

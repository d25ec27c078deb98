"""A stand-in for SwanLab's server: the calls that the package swanlab 0.10.3 makes, and no others.

It keeps what it is told, so that a test can look at it, and answers as the real one does as far as
the package depends on it (read from the package's own source): a login gives a cookie that every
other call must bring; projects are made once, in workspaces that exist; an experiment is made
(201) or, under an id that it knows, gone on with (200); a summary says the last step of each
series. Whatever else is asked is refused with 404 and kept in `unknown`.

`fault` makes it misbehave: a function of (method, path) that gives None, a status to answer with,
or does something else first, such as sleeping.
"""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class SwanLab:
    """A server on a free port of this machine; `with` stops it."""

    def __init__(self, key: str, workspaces: tuple[str, ...] = ("lab",)):
        self.key, self.workspaces = key, workspaces
        self.projects: dict[str, dict] = {}  # "workspace/name"
        self.experiments: dict[str, dict] = {}  # by id
        self.calls: list[tuple[str, str]] = []
        self.unknown: list[tuple[str, str]] = []
        self.bodies: list[str] = []
        self.fault: Callable[[str, str], int | None] = lambda method, path: None
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self.http.daemon_threads = True
        self.http.block_on_close = False

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> "SwanLab":
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def curve(self, id: str, key: str) -> list[tuple[int, float]]:
        """(step, value) in the order of arrival; what arrives twice is here twice."""
        points = self.experiments[id]["scalars"]
        return [(point["index"], point["data"]) for point in points if point["key"] == key]

    def keys(self, id: str) -> set[str]:
        return {point["key"] for point in self.experiments[id]["scalars"]}

    def answer(self, method: str, parts: list[str], body: dict, key: str | None, cookie: bool):
        """(status, JSON) of one call; `parts` are those of the path after /api."""
        match method, parts:
            case "POST", ["login", "api_key"]:
                if key != self.key:
                    return 401, {"code": "Unauthorized", "message": "invalid api key"}
                until = (datetime.now(UTC) + timedelta(days=30)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                user = {"username": self.workspaces[0], "name": "A Person"}
                return 200, {"sid": "session-1", "expiredAt": until, "userInfo": user}
            case _ if not cookie:
                return 401, {"code": "Unauthorized", "message": "no session"}
            case "GET", ["project", space, name]:
                found = self.projects.get(f"{space}/{name}")
                return (200, found) if found else (404, {"message": "no such project"})
            case "POST", ["projects", space]:
                if space not in self.workspaces:
                    return 403, {"code": "Forbidden", "message": f"no workspace {space}"}
                name = body["name"]
                self.projects[f"{space}/{name}"] = {
                    "cuid": f"p{len(self.projects)}", "name": name, "version": 1,
                    "path": f"/@{space}/{name}", "visibility": body["visibility"],
                    "group": {"username": space}, "_count": {"experiments": 0},
                }  # fmt: skip
                return 201, {}
            case "POST", ["project", space, name, "experiment"]:
                id = body["cuid"]
                new = id not in self.experiments
                fresh = {"scalars": [], "series": [], "logs": [], "profile": {}, "beats": 0}
                entry = self.experiments.setdefault(id, fresh)
                entry |= {"project": f"{space}/{name}", "name": body["name"], "state": "RUNNING"}
                entry.setdefault("createdAt", body["createdAt"])
                told = {"cuid": id, "slug": id, "name": body["name"]}
                return (201, told) if new else (200, told | {"createdAt": entry["createdAt"]})
            case "GET", ["house", "metrics", "summaries", _, id] if id in self.experiments:
                last: dict[str, int] = {}
                for point in self.experiments[id]["scalars"]:
                    last[point["key"]] = max(point["index"], last.get(point["key"], -1))
                scalars = [{"key": name, "step": step} for name, step in last.items()]
                return 200, {"scalar": scalars, "media": [], "log": []}
            case "PUT", ["project", _, _, "runs", id, "profile"] if id in self.experiments:
                self.experiments[id]["profile"] |= body
                return 200, {}
            case "PUT", ["project", _, _, "runs", id, "state"] if id in self.experiments:
                self.experiments[id]["state"] = body["state"]
                return 200, {}
            case "POST", ["projects", _, _, "series"]:
                for entry in self.experiments.values():
                    entry["series"] += body["series"]
                return 201, {}
            case "POST", ["house", "metrics"] if body["experimentId"] in self.experiments:
                kind = {"scalar": "scalars", "log": "logs"}[body["type"]]
                self.experiments[body["experimentId"]][kind] += body["metrics"]
                return 201, {}
            case "POST", ["house", "experiments", id, "heartbeat"] if id in self.experiments:
                self.experiments[id]["beats"] += 1
                return 200, {}
        self.unknown.append((method, "/".join(parts)))
        return 404, {"message": "no such address"}


def handler(server: SwanLab) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            path = urlsplit(self.path).path
            fault = server.fault(self.command, path)
            with server.lock:
                server.calls.append((self.command, path))
                server.bodies.append(text)
                status, told = (
                    (fault, {"message": "out of order"})
                    if fault
                    else server.answer(
                        self.command,
                        path.removeprefix("/api/").split("/"),
                        json.loads(text) if text else {},
                        self.headers.get("authorization"),
                        "sid=session-1" in self.headers.get("Cookie", ""),
                    )
                )
            content = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = reply

        def log_message(self, *_: object) -> None:
            pass

    return Handler

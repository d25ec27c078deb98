"""A local service that behaves as it is told: one reply after the other, the last one for good."""

import contextlib
import json
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """body: bytes as they stand, or what is made JSON. way: whole, hang (nothing comes), reset,
    cut (half of the body, then the connection ends), trickle (a byte each 50 ms)."""

    body: Any = None
    status: int = 200
    headers: dict = field(default_factory=dict)
    way: str = "whole"

    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def completion(content: Any = "ANSWER: B", **changes: Any) -> dict:
    """What a usual service sends."""
    message = {"role": "assistant", "content": content} | changes.pop("message", {})
    choice = {"index": 0, "message": message, "finish_reason": changes.pop("finish_reason", "stop")}
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    about = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "usage": usage}
    return {**about, "choices": [choice], **changes}


class Service:
    """`asked`: the requests, {method, path, headers, body}, as they came."""

    def __init__(self, *replies: Reply, models: Reply | None = None):
        self.replies = list(replies) or [Reply(completion())]
        self.models = models or Reply({"message": "Not Found"}, 404)
        self.asked: list[dict] = []
        self.over = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def do_GET(self):
                service.note(self, None)
                service.reply(self, service.models)

            def do_POST(self):
                length = int(self.headers["Content-Length"])
                service.note(self, json.loads(self.rfile.read(length)))
                replies = service.replies
                service.reply(self, replies.pop(0) if len(replies) > 1 else replies[0])

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):  # clients that give up are what is tested
                pass

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def note(self, handler, body) -> None:
        said = {name.lower(): value for name, value in handler.headers.items()}
        self.asked.append(
            {"method": handler.command, "path": handler.path, "headers": said, "body": body}
        )

    def posted(self) -> list[dict]:
        return [asked["body"] for asked in self.asked if asked["method"] == "POST"]

    def reply(self, handler, reply: Reply) -> None:
        with contextlib.suppress(OSError):
            self._reply(handler, reply)

    def _reply(self, handler, reply: Reply) -> None:
        if reply.way == "hang":
            self.over.wait(10)
            handler.close_connection = True
            return
        if reply.way == "reset":
            handler.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            handler.close_connection = True
            return
        content = reply.content()
        handler.send_response(reply.status)
        headers = {"Content-Type": "application/json"} | reply.headers
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if reply.way == "cut":
            handler.wfile.write(content[: len(content) // 2])
            handler.close_connection = True
        elif reply.way == "trickle":
            for number in range(len(content)):
                handler.wfile.write(content[number : number + 1])
                if self.over.wait(0.05):
                    break
            handler.close_connection = True
        else:
            handler.wfile.write(content)

    def __enter__(self) -> "Service":
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.over.set()
        self.http.shutdown()
        self.http.server_close()


def later(seconds: float) -> str:
    """An HTTP date."""
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + seconds))

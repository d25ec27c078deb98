"""A stand-in for a model server, for faults that a real one shows too rarely.

Started in place of a backend's interpreter, so it is given the same arguments and environment as
swift_deploy.py and listens where that would. STUB (JSON in the environment) says how it behaves:

    log         file that gets one line per question: {"key": sha256 of the question as the answer
                store has it, "at": Unix time, "card": CUDA_VISIBLE_DEVICES}
    delay       seconds per answer          start_delay  seconds before it listens
    exit        status to end with at once  die_after    answers before it kills itself
    name        model name to claim         refuse       text whose questions are refused
    status      of a refusal (400)          ready        false: listens, and never answers
    refusal     its body
    session     what GET /v1/session tells, as ms-swift's server has it
    engine      "dead": answers HTTP 500, and ends itself a second later, as vLLM does

Its answers depend on nothing but the question.
"""

import hashlib
import json
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STUB = json.loads(os.environ.get("STUB") or "{}")
KEY = os.environ["SFTFLOW_KEY"]
CARD = os.environ.get("CUDA_VISIBLE_DEVICES")
NAME = STUB.get("name") or sys.argv[sys.argv.index("--served_model_name") + 1]
ENGINE_DEAD = (
    "(EngineCore pid=7) ERROR 11-24 09:14:17 [core.py:1332] "
    "torch.OutOfMemoryError: CUDA out of memory.\n"
    + "(APIServer pid=6) INFO: waiting\n" * 60
    + "(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above."
)
answered = 0
mutex = threading.Lock()


def sha(value):
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        if self.path == "/v1/session" and "session" in STUB:
            return self.reply(200, STUB["session"])
        if self.path != "/v1/models":
            return self.reply(404, {"message": "not here"})
        self.reply(200, {"data": [{"id": NAME}]})

    def do_POST(self):
        global answered
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {KEY}":
            return self.reply(400, {"message": "API key error"})
        if STUB.get("ready") is False:
            time.sleep(3600)
        if STUB.get("engine") == "dead":
            print(ENGINE_DEAD, flush=True)
            threading.Timer(1, os._exit, [1]).start()
            return self.reply(500, {"message": "EngineCore encountered an issue."})
        text = body["messages"][-1]["content"]
        if STUB.get("log") and text != "你好":
            question = sha({name: value for name, value in body.items() if name != "model"})
            with mutex, open(STUB["log"], "a", encoding="utf-8") as log:
                log.write(json.dumps({"key": question, "at": time.time(), "card": CARD}) + "\n")
        if STUB.get("refuse") and STUB["refuse"] in text:
            refusal = STUB.get("refusal") or {"message": "the prompt is too long"}
            return self.reply(STUB.get("status", 400), refusal)
        time.sleep(STUB.get("delay", 0))
        letter = "ABCD"[int(sha(text)[:8], 16) % 4]
        message = {"role": "assistant", "content": f"ANSWER: {letter}"}
        usage = {"prompt_tokens": len(text), "completion_tokens": 3, "total_tokens": len(text) + 3}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        about = {"id": "x", "object": "chat.completion", "created": 0, "model": NAME}
        self.reply(200, about | {"choices": [choice], "usage": usage})
        with mutex:
            answered += text != "你好"
            if answered == STUB.get("die_after"):
                print("CUDA error: an illegal memory access was encountered", flush=True)
                os.kill(os.getpid(), 9)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()


print("stub server: line one of its log", flush=True)
if "exit" in STUB:
    print("ValueError: no such model", flush=True)
    sys.exit(STUB["exit"])
time.sleep(STUB.get("start_delay", 0))
Server(("127.0.0.1", int(os.environ["SFTFLOW_PORT"])), Handler).serve_forever()

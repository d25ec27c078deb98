"""A stand-in for a judge: an OpenAI-compatible server whose verdicts follow a script, no model.

Habits: longer (the longer answer), first (always who stands first), consistent (the answer that
holds "good"), thinks (as consistent, after a <think> block that weighs the other verdicts), garbage
(no verdict), refuses (a content filter), points (yes to all five, but no to help where an answer
is short).
"""

import json
import re
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWER = re.compile(r"<answer(?:_[AB])?>\n(.*?)\n</answer", re.DOTALL)


def verdict(habit: str, text: str) -> str:
    answers = ANSWER.findall(text)
    if habit == "points":
        return f"Reasons.\n[[1=Y 2={'Y' if len(answers[0]) > 20 else 'N'} 3=Y 4=Y 5=Y]]"
    if habit == "garbage":
        return "Both have their merits: [[A]] or [[B]]?"
    if habit == "first":
        return "[[A]]"
    keys = [len(answer) if habit == "longer" else "good" in answer for answer in answers]
    letter = "C" if keys[0] == keys[1] else "AB"[keys[1] > keys[0]]
    thought = "<think>[[A]]? No, [[B]].</think>\n" if habit == "thinks" else ""
    return f"{thought}A comparison.\n**[[{letter}]]**"


class Judge:
    """A context: its `url`, and the texts that it was `asked`. After `kills_after`
    answers it kills `victim`, the program that asks."""

    def __init__(self, habit: str, kills_after: int | None = None):
        self.habit, self.kills_after = habit, kills_after
        self.victim: subprocess.Popen | None = None
        self.asked: list[str] = []
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def reply(self, status: int, body: dict) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_GET(self):
                self.reply(200, {"data": [{"id": "stand-in"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = body["messages"][-1]["content"]
                said, ending = "Hello.", "stop"
                if "<answer" in text:
                    if judge.victim and len(judge.asked) == judge.kills_after:
                        return judge.victim.kill()
                    judge.asked.append(text)
                    if judge.habit == "refuses":
                        error = {"code": "content_filter", "message": "filtered"}
                        return self.reply(400, {"error": error})
                    said = verdict(judge.habit, text)
                message = {"role": "assistant", "content": said}
                choice = {"index": 0, "message": message, "finish_reason": ending}
                usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
                about = {"id": "x", "object": "chat.completion", "created": 0, "model": "stand-in"}
                self.reply(200, about | {"choices": [choice], "usage": usage})

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "Judge":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

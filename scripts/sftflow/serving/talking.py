"""A person talks to one server, or to two at once."""

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from sftflow.core import cli, gpu
from sftflow.core.cli import UserError
from sftflow.serving import columns, completions, proven, server
from sftflow.serving.backends import Spec
from sftflow.serving.client import Server, ServerError
from sftflow.serving.measure import CHAT_TOKENS

REFRESH = 0.07  # seconds between two looks at the answers
ROOM = 1.2  # memory that a server needs, in sizes of its weights
HELP = "/reset begins anew; /system TEXT sets a system prompt and begins anew; /exit ends"


@dataclass
class Partner:
    """One subject that is talked to, with a history of its own."""

    name: str
    running: Server
    system: str | None
    history: list[dict] = field(default_factory=list)

    def messages(self, text: str) -> list[dict]:
        before = [{"role": "system", "content": self.system}] if self.system else []
        return [*before, *self.history, {"role": "user", "content": text}]


class Answer:
    """An answer on its way: `text` grows in a thread of its own until `ended`."""

    def __init__(self, partner: Partner, said: str, stated: dict, max_tokens: int):
        self.partner, self.said, self.text = partner, said, ""
        self.ended = False
        self.error: str | None = None
        self.reason: str | None = None
        self._stop = threading.Event()
        question = partner.running.question(partner.messages(said), max_tokens) | stated
        threading.Thread(target=self._listen, args=(question,), daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _listen(self, question: dict) -> None:
        thought = False
        try:
            for piece in self.partner.running.pieces(question):
                if self._stop.is_set():
                    break
                reasoning, content, reason = heard(piece)
                self.reason = reason or self.reason
                if reasoning:
                    self.text += ("" if thought else "<think>") + reasoning
                    thought = True
                if content:
                    self.text += ("</think>" if thought else "") + content
                    thought = False
        except (ServerError, completions.NoAnswer) as error:
            self.error = self.partner.running.clean(str(error))
        except Exception as error:  # nobody else would tell of what ends a thread
            self.error = f"{type(error).__name__}: {error}"
        finally:
            self.ended = True

    def remarks(self, max_tokens: int) -> str:
        """What a person should know about how it ended."""
        if self.error:
            return f"[no whole answer: {self.error}]"
        if self.reason == "length":
            return f"[cut off at {max_tokens} tokens: --max-tokens]"
        if self._stop.is_set():
            return "[stopped]"
        if not self.text.strip():
            return "[an empty answer]"
        return ""

    def keep(self) -> None:
        """Into the history; a turn without an answer leaves no trace there."""
        answer = columns.said(self.text).strip()
        if answer and not self.error:
            self.partner.history += [
                {"role": "user", "content": self.said},
                {"role": "assistant", "content": answer},
            ]


def heard(piece: dict) -> tuple[str, str, str | None]:
    """(reasoning, text, finish reason) of a piece of a stream, or of a whole completion. NoAnswer.

    An error that came with HTTP status 200 is no answer.
    """
    if piece.get("error"):
        completions.normalised(piece, "")
        return "", "", completions.FILTERED
    choices = piece.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    if not isinstance(choice, dict):
        return "", "", None
    whole = choice.get("delta") or choice.get("message") or {}
    ended = {"choices": [{"message": whole, "finish_reason": choice.get("finish_reason")}]}
    found = completions.normalised(ended, "")["choices"][0]
    message = found["message"]
    spoken = message["content"] or message.get("refusal", "")
    return message.get("reasoning_content", ""), spoken, found["finish_reason"]


# --- servers --------------------------------------------------------------------------------------


def talk(settings: dict) -> None:
    """Until the end of input. {subjects, temperature, max_tokens}; UserError, ServerError."""
    for stream in (sys.stdin, sys.stdout):
        stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    told = settings["subjects"]
    found = [proven.subject(one) for one in told]
    for _, lines in found:
        cli.note("\n".join(lines) + "\n")
    try:
        with contextlib.ExitStack() as stack:
            specs = stack.enter_context(with_cards([spec for spec, _ in found]))
            partners = []
            for one, spec in zip(told, specs, strict=True):
                name = one["settings"]["subject"]
                running = stack.enter_context(server.serve(spec, Path(one["log"])))
                words = f"its words are in {one['log']}" if running.process else "answers"
                cli.note(f"{name} is ready after {running.seconds['ready']:.1f} s; {words}")
                system = (one["settings"].get("model") or {}).get("system")
                partners.append(Partner(name, running, system))
            conversation(partners, settings)
    except KeyboardInterrupt:
        cli.note("\nended")


@contextlib.contextmanager
def with_cards(specs: list[Spec]) -> Iterator[list[Spec]]:
    """The specs with the GPUs that they are to use: each its own, or, where there are too few and
    memory allows it, the same ones. One that stands alone claims its own. UserError."""
    wanted = [server.gpus_of(spec) for spec in specs]
    visible = gpu.describe() if sum(map(bool, wanted)) > 1 else []
    if not visible:
        yield specs
        return
    shared = sum(wanted) > len(visible)
    if shared:
        refuse_too_large(specs, visible[: max(wanted)])
    with gpu.claim(max(wanted) if shared else sum(wanted)) as mine:
        names = tuple(card["uuid"] for card in mine)
        first = 0 if shared else wanted[0]
        cards = [names[: wanted[0]], names[first : first + wanted[1]]]
        yield [replace(spec, cards=own) for spec, own in zip(specs, cards, strict=True)]


def refuse_too_large(specs: list[Spec], cards: list[dict]) -> None:
    """UserError where two servers can't share these GPUs."""
    alone = "talk to one at a time"
    if any(spec.backend == "vllm" for spec in specs):
        raise UserError(f"vllm takes a GPU for itself, and there are too few for two: {alone}")
    folders = [folder for s in specs for folder in (s.weights, s.adapter) if folder]
    size = sum(path.stat().st_size for f in folders for path in f.rglob("*") if path.is_file())
    needed, there = ROOM * size / gpu.GIB, sum(card["memory_gib"] for card in cards)
    if needed > there:
        raise UserError(
            f"both need about {needed:.0f} GiB of GPU memory together, and the GPUs that they "
            f"would share have {there:.0f} GiB: {alone}"
        )


# --- the conversation -----------------------------------------------------------------------------


def conversation(partners: list[Partner], settings: dict) -> None:
    """Lines of input, answers below them. At a terminal Ctrl-C stops an answer, twice it ends."""
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (lines can be edited, Chinese ones too)
        cli.note(HELP)
    interrupted = failed = False
    while True:
        try:
            line = input("> ") if terminal else sys.stdin.readline()
        except EOFError:
            break
        except KeyboardInterrupt:
            if interrupted or not terminal:
                raise
            interrupted = True
            cli.note("\n(once more ends)")
            continue
        if not (terminal or line):
            break
        interrupted = False
        text = line.strip()
        if not terminal and text:
            cli.note(f"> {text}")
        if text == "/exit":
            break
        if text.startswith("/") and not text.startswith("//"):
            cli.note(commanded(partners, text))
        elif text:
            text = text[1:] if text.startswith("//") else text
            answers, interrupted = ask(partners, text, settings, terminal)
            failed |= any(answer.error for answer in answers)
    if failed and not terminal:
        raise UserError("not every line has a whole answer: see above")


def commanded(partners: list[Partner], text: str) -> str:
    """Do what a line with a command says; what there is to tell of it."""
    command, _, rest = text.partition(" ")
    if command not in ("/reset", "/system"):
        return f"{command} is no command. {HELP}. A line that begins with // says /"
    for partner in partners:
        partner.history.clear()
        if command == "/system":
            partner.system = rest.strip() or None
    return f"(anew; system prompt: {partners[0].system or 'none'})" if rest else "(anew)"


def ask(
    partners: list[Partner], text: str, settings: dict, terminal: bool
) -> tuple[list[Answer], bool]:
    """Ask all at once and show their answers; (answers, whether they were stopped)."""
    max_tokens = settings["max_tokens"] or CHAT_TOKENS
    stated = {"temperature": settings["temperature"]}
    answers = [Answer(partner, text, stated, max_tokens) for partner in partners]
    stopped = False
    width, height = shutil.get_terminal_size()
    beside = terminal and len(partners) > 1 and width >= len(partners) * (columns.NARROWEST + 3)
    try:
        side_by_side(answers, width, height) if beside else one_below_the_other(answers, terminal)
    except KeyboardInterrupt:
        if not terminal:
            raise
        stopped = True
        for answer in answers:
            answer.stop()
        cli.note("")
    for answer in answers:
        answer.keep()
        if remark := answer.remarks(max_tokens):
            cli.note(f"{answer.partner.name}: {remark}" if len(answers) > 1 else remark)
    for partner in partners:
        partner.running.check()  # one that has died ends the conversation, with its log
    cli.note("")
    return answers, stopped


def side_by_side(answers: list[Answer], width: int, height: int) -> None:
    table = columns.Columns(_write, width, height, len(answers))
    table.head([answer.partner.name for answer in answers])
    while True:
        ended = [answer.ended for answer in answers]  # before the texts, which grow until then
        texts = [answer.text for answer in answers]
        table.draw(texts, ended)
        if all(ended):
            break
        time.sleep(REFRESH)


def one_below_the_other(answers: list[Answer], terminal: bool) -> None:
    """Each as it comes; the second one has come meanwhile, or goes on when the first has ended.

    At a terminal thoughts are dimmed; elsewhere their marks stay.
    """
    dimmed = terminal and "NO_COLOR" not in os.environ
    for answer in answers:
        if len(answers) > 1:
            cli.note(f"{answer.partner.name}:")
        told = ""
        while True:
            ended = answer.ended
            whole = coloured(answer.text) if dimmed else columns.shown(answer.text)
            if whole.startswith(told):
                _write(whole[len(told) :])
                told = whole
            if ended:
                break
            time.sleep(REFRESH)
        _write("\n")


def coloured(text: str) -> str:
    """An answer with its thoughts dimmed, so that a longer one begins with a shorter one."""
    parts, open_ = "", False
    for thought, part in columns.parted(text):
        if thought != open_:
            parts += columns.DIM if thought else columns.PLAIN + "\n"
            open_ = thought
        parts += columns.shown(part)
    return parts


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()

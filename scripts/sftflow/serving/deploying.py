"""One server that is kept up for others."""

import json
import os
import secrets
import shlex
import socket
import time
from dataclasses import replace
from pathlib import Path

from sftflow.core import cli
from sftflow.core.cli import UserError
from sftflow.serving import proven, server
from sftflow.serving.backends import ANYWHERE, Address
from sftflow.serving.client import SECRET, Server, sendable

WATCH = 0.5  # seconds between two looks at the server
KEY_ENV = "DEPLOY_KEY"  # what the printed commands call the key, if the user does not
EXAMPLE = [{"role": "user", "content": "你好"}]


def deploy(settings: dict) -> None:
    """Serve until told to end. {subject, host, port, key_env}; UserError, ServerError."""
    told = settings["subject"]
    key = the_key(settings["key_env"])
    try:
        host = socket.gethostbyname(settings["host"])
    except OSError as error:
        raise UserError(f"--host {settings['host']} is no address here: {error}") from None
    server.refuse_taken(host, settings["port"])  # before gigabytes are read
    if not host.startswith("127."):
        cli.note(
            f"warning: {host} can be reached from outside this machine, without encryption: "
            "whoever reads along has the key, too"
        )
    spec, lines = proven.subject(told)
    cli.note("\n".join(lines))
    name = told["settings"]["subject"]
    address = Address(host, settings["port"], name, key)
    log = Path(told["log"])
    cli.note(f"{'server':<14}starting; its words are in {log}")
    try:
        with server.serve(replace(spec, address=address), log) as running:
            cli.note("\n".join(about(running, address, settings["key_env"], told)))
            while True:
                running.check()
                time.sleep(WATCH)
    except KeyboardInterrupt:
        cli.note("\nended")


def the_key(name: str | None) -> str:
    """From the environment variable that the user names, or a new one. UserError for a weak one."""
    if name is None:
        return secrets.token_urlsafe(32)
    key = sendable(os.environ.get(name, ""), f"the key (environment variable {name})")
    if len(key) < SECRET or " " in key:
        raise UserError(
            f"the environment variable {name} holds no key: at least {SECRET} characters, "
            "without blanks"
        )
    return key


def about(running: Server, address: Address, key_env: str | None, told: dict) -> list[str]:
    """What others need: address, name, key, and commands that work as they are printed."""
    root = running.url.removesuffix("/v1")
    variable = key_env or KEY_ENV
    system = (told["settings"].get("model") or {}).get("system")
    messages = [{"role": "system", "content": system}] * bool(system) + EXAMPLE
    body = {"model": running.model, **running.question(messages, 256), **running.manner.extra}
    text = json.dumps(body, ensure_ascii=False)
    curl = "curl --noproxy '*'"
    where = " (every address of this machine)" if address.host == ANYWHERE else ""
    return [
        f"{'ready':<14}after {running.seconds['ready']:.1f} s: it answered {running.probe!r}",
        f"{'url':<14}{running.url}{where}",
        f"{'model':<14}{running.model}",
        f"{'key':<14}"
        + ("printed once, below, and kept nowhere" if not key_env else f"${key_env}"),
        "",
        *([] if key_env else [f"export {KEY_ENV}={shlex.quote(running.key)}"]),
        f"{curl} -i {root}/health",
        f'{curl} {running.url}/models -H "Authorization: Bearer ${variable}"',
        f'{curl} {running.url}/chat/completions -H "Authorization: Bearer ${variable}" \\',
        f"  -H 'Content-Type: application/json' -d {shlex.quote(text)}",
        "",
        "It stays up until Ctrl-C or TERM.",
    ]

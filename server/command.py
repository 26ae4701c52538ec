"""The `groundwire serve` command. Its options are the fields of `Settings`."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import uvicorn

from groundwire.errors import InputError
from groundwire.server.settings import Settings, flag, has_flag, shown_default

if TYPE_CHECKING:
    from fastapi import FastAPI

KEEP_ALIVE = 75  # seconds; shorter than clients', and they write into connections that are just being closed
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _options() -> list[click.Parameter]:
    """One option per setting; None where it is not given, so that environment and file have their turn."""
    options: list[click.Parameter] = []
    for name, field in Settings.model_fields.items():
        if not has_flag(field):
            continue
        default = shown_default(field)
        text = (field.description or "") + (f" [default: {default}]" if default else "")
        if field.annotation is bool:
            spelled = [name, f"{flag(name)}/--no-{name.replace('_', '-')}"]
            options.append(click.Option(spelled, default=None, help=text))
        else:
            options.append(click.Option([name, flag(name)], metavar="VALUE", help=text))
    return options


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[MODEL] [FLAGS OF VLLM]")
@click.option(
    "--engine",
    type=click.Choice(["transformers", "vllm"]),
    default="transformers",
    show_default=True,
    help="What runs the model: this process, or `vllm serve`, which takes MODEL and all of its own flags here.",
)
@click.option(
    "--config", metavar="FILE", type=click.Path(path_type=Path), help="TOML file of settings, such as `port = 8000`."
)
@click.option("--hash-key", is_flag=True, help="Ask for an API key, print its SHA-256 for --api-keys, and leave.")
def serve(arguments: tuple[str, ...], engine: str, config: Path | None, hash_key: bool, **given: Any) -> None:
    """Serve an OpenAI-compatible API whose answers say whether they stay with their passages.

    Every setting may also stand in the environment (--max-queue is GROUNDWIRE_MAX_QUEUE) or in the file given by
    --config (max_queue = 64). A flag wins over the environment, that over the file.
    """
    if hash_key:
        click.echo(_hashed())
        return
    if engine == "vllm" and config is not None and config.suffix in (".yaml", ".yml"):
        arguments, config = (*arguments, "--config", str(config)), None  # vLLM's own
    settings = Settings.load({name: value for name, value in given.items() if value is not None}, config)
    if engine == "vllm":
        from groundwire.server.vllm.command import run

        run(arguments, settings)
    if arguments:
        raise click.UsageError(f"No such option or argument: {arguments[0]} (with --engine vllm they are for vLLM)")
    with _listen(settings.host, settings.port) as listener:  # before the model is loaded: a port may be taken
        _run(settings, listener)


serve.params.extend(_options())


class _Server(uvicorn.Server):
    """uvicorn's server, which says in one line what it serves once it listens."""

    def __init__(self, config: uvicorn.Config, line: str) -> None:
        super().__init__(config)
        self._line = line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            click.echo(self._line)


def _run(settings: Settings, listener: socket.socket) -> None:
    from groundwire.server import tracing
    from groundwire.server.app import create_app, load_detector
    from groundwire.server.logs import configure

    configure(settings.log_level)
    tracing.configure()
    app = create_app(settings)  # first: what is wrong with the settings shows before the model is loaded
    app.state.detector = load_detector(settings)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
    )
    try:
        _Server(config, _greeting(app, settings, listener)).run(sockets=[listener])
    except KeyboardInterrupt:  # raised again once everything has been shut down in order
        raise SystemExit(130) from None


def _greeting(app: FastAPI, settings: Settings, listener: socket.socket) -> str:
    """What is served, and where."""
    from groundwire.server.models import served_name

    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    open_to_all = not (settings.api_keys or settings.api_keys_file) and host not in LOOPBACK
    warning = "\nNo API keys: whoever reaches this address can use it." if open_to_all else ""
    name = served_name(settings, app.state.detector)
    what = f"passes on {settings.upstream_url}, judged by {name}," if settings.upstream_url else f"serves {name}"
    return f"Groundwire {what} at {url}/v1{warning}"


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises InputError where the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _no_address(host, port, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _no_address(host, port, error) from error
    return listener


def _no_address(host: str, port: int, error: OSError) -> InputError:
    return InputError(
        f"cannot listen on {host}, port {port}: {error.strerror or error}",
        expected="an address of this machine, and a port that is free",
        remedy="name others with --host and --port",
    )


def _hashed() -> str:
    """The SHA-256 of a key that is typed unseen, or piped in."""
    from groundwire.server.auth import hash_key

    key = click.prompt("API key", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()
    if not key.strip():
        raise InputError("no key", expected="a key on standard input", remedy="type it, or pipe it in")
    return hash_key(key.strip())

"""The service as a process (`serve`) and as a thread (`running`)."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from holter_db import tokens
from holter_db.database import Database
from holter_db.errors import DatabaseError
from holter_server.app import create_app
from holter_server.errors import ServiceError
from holter_server.settings import Settings

__all__ = ["Address", "running", "serve"]

START_TIMEOUT_S = 60.0
GRACE_S = 3  # seconds that open requests get at the end; live sockets are closed at once
KEEP_ALIVE_S = 30  # longer than the agents' heartbeats are apart, so that each keeps its connection
SOCKET_MESSAGE_BYTES = 65_536
COLLECTOR_THRESHOLDS = (10_000, 10, 50)  # new containers, and how often a generation is looked at before the next one


class Address(str):
    """The base address of a running service, such as ``http://127.0.0.1:8787``."""

    @property
    def url(self) -> str:
        return str(self)


def serve(settings: Settings, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Run the service until SIGINT or SIGTERM; everything that was acknowledged is on disk then.

    Args:
        settings: see `holter_server.settings`.
        on_ready: called with the address once requests are answered.

    Raises:
        ServiceError: the port is taken, the address is not ours, or the database can't be opened.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("holter").setLevel(settings.log_level.upper())
    with _service(settings) as (server, listening, address):
        with _until_signalled(server):
            announcer = threading.Thread(target=_announce, args=(server, address, on_ready), daemon=True)
            announcer.start()
            _spare_the_collector()
            server.run(sockets=[listening])
        if not server.started:
            raise ServiceError("The service could not start", "The lines above say why.")


@contextmanager
def running(settings: Settings) -> Iterator[Address]:
    """The service in a thread, for tests and `holter demo`; gives its address and stops it at the end of the block.

    Raises:
        ServiceError: as `serve`.
    """
    with _service(settings) as (server, listening, address):
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="holter-service")
        thread.start()
        try:
            _wait_until_started(server, thread)
            yield Address(address)
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def _service(settings: Settings) -> Iterator[tuple[_Server, socket.socket, str]]:
    try:
        database = Database.open(settings.db)
    except DatabaseError as error:
        raise ServiceError(str(error), error.hint) from error
    with contextlib.closing(database), _listen(settings.host, settings.port) as listening:
        _ensure_token(settings, database)
        address = _address(settings.host, listening.getsockname()[1])
        app = create_app(settings, database, address)
        yield _Server(_config(app, settings)), listening, address


def _spare_the_collector() -> None:
    """Have Python's cyclic garbage collector look at what lives long once in a while, and at the modules never.

    By its own settings it looked at the engines of 1,000 live runs every 1.5 s and took 0.17 s each time, during which
    nobody is answered. Only for a process of our own: the settings are those of the whole interpreter.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: it would raise the signal again and end with a signal's exit status."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_level="warning" if settings.log_level == "info" else settings.log_level,
        log_config=None,
        access_log=settings.log_level == "debug",
        server_header=False,
        proxy_headers=False,
        ws_max_size=SOCKET_MESSAGE_BYTES,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=KEEP_ALIVE_S,
    )


@contextmanager
def _until_signalled(server: uvicorn.Server) -> Iterator[None]:
    """SIGINT and SIGTERM end the server in order; a second one does not wait for open requests."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((bare, port))
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise _listen_error(error, host, port) from None
    return listening


def _listen_error(error: OSError, host: str, port: int) -> ServiceError:
    if error.errno == errno.EADDRINUSE:
        hint = f"Stop the service that uses it, or take another: holter serve --port {port + 1}"
        return ServiceError(f"Port {port} on {host} is in use", hint)
    if error.errno == errno.EACCES:
        return ServiceError(f"This user may not listen on port {port}", "Take a port above 1023.")
    hint = "Use 127.0.0.1 for this machine only, or 0.0.0.0 for every network it is in."
    return ServiceError(f"Can't listen on {host}: {error.strerror or error}", hint)


def _address(host: str, port: int) -> str:
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    if ":" in name and not name.startswith("["):
        name = f"[{name}]"
    return f"http://{name}:{port}"


def _ensure_token(settings: Settings, database: Database) -> None:
    """Beyond loopback every call needs a token: where there is none, make one and print it this once."""
    if settings.loopback or settings.token_text:
        return
    with database.write() as conn:
        if tokens.list_tokens(conn):
            return
        secret = tokens.create(conn, "first", time.time())
    _print(f"Every call needs a token. This one was made now and is shown only once:\n\n    {secret}\n")
    _print("Agents take it from HOLTER_TOKEN, the page asks for it. `holter token create NAME` makes more.")


def _announce(server: uvicorn.Server, address: str, on_ready: Callable[[str], None] | None) -> None:
    while not server.started:
        if server.should_exit:
            return
        time.sleep(0.01)
    if on_ready is None:
        _print(f"Holter is at {address}")
    else:
        on_ready(address)


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise ServiceError("The service could not start", "Its log says why.")
        time.sleep(0.005)


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()

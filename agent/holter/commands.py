"""What the service asks of a run: received from the shipper, carried out on the training thread."""

from __future__ import annotations

import inspect
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from holter.notices import Notices
from holter.values import clean_text
from holter.wire import CommandOrder, CommandUpdate

__all__ = ["Inbox"]

Handler = Callable[..., Any]


class Inbox:
    """Orders on their way to their handlers. Every order is answered exactly once with done or failed.

    ``stop`` needs no handler: it makes `stopped` true, and is done when the run has ended.
    """

    def __init__(self, answer: Callable[[CommandUpdate], None], notices: Notices) -> None:
        self.stopped = False
        self.waiting: deque[CommandOrder] = deque()
        self._answer, self._notices = answer, notices
        self._handlers: dict[str, Handler] = {}
        self._seen: dict[str, CommandOrder] = {}
        self._stops: list[str] = []
        self._running = False

    def register(self, name: str, handler: Handler) -> None:
        self._handlers[name] = handler

    def receive(self, order: CommandOrder) -> None:
        """From any thread. The service repeats an order until it is answered, and the guard may have given it already:
        only the first one counts.
        """
        if self._seen.setdefault(order.id, order) is not order:  # one operation, so that no two threads both are first
            return
        self._update(order.id, "acknowledged")
        if order.name == "stop":
            self.stopped = True
            self._stops.append(order.id)
            self._notices.say(f"a stop was asked for{_by(order)}; run.should_stop is true now")
            if "stop" not in self._handlers:
                return
        self.waiting.append(order)

    def carry_out(self, step: int | None) -> None:
        """On the training thread. A handler that logs doesn't start the next order."""
        if self._running:
            return
        self._running = True
        try:
            while self.waiting:
                self._call(self.waiting.popleft(), step)
        finally:
            self._running = False

    def close(self, step: int | None) -> None:
        """The run has ended: stops are done, and what waits will never be."""
        while self.waiting:
            order = self.waiting.popleft()
            if order.name != "stop":
                self._update(order.id, "failed", "The run ended before it came to it.", step)
        for command in self._stops:
            self._update(command, "done", "The run ended.", step)
        self._stops.clear()

    def _call(self, order: CommandOrder, step: int | None) -> None:
        handler = self._handlers.get(order.name)
        if handler is None:
            message = f"The training has no handler for it: add run.on_command({order.name!r}, function)."
            self._update(order.id, "failed", message, step)
            return
        try:
            result = handler(**_accepted(handler, order.args))
        except Exception as error:  # noqa: BLE001 - the user's function may raise anything, and the loop must go on
            text = clean_text(f"{type(error).__name__}: {error}")
            self._notices.warn(f"command {order.name}", f"the handler of {order.name!r} raised {text}")
            if order.name != "stop":
                self._update(order.id, "failed", text, step)
            return
        if order.name != "stop":  # a stop is done when the run has ended
            self._update(order.id, "done", None if result is None else clean_text(result), step)

    def _update(self, command: str, state: Any, result: str | None = None, step: int | None = None) -> None:
        self._answer(CommandUpdate(id=command, state=state, time=time.time(), result=result, step=step))


def _by(order: CommandOrder) -> str:
    return f" by {order.requested_by}" if order.requested_by else ""


def _accepted(handler: Handler, args: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that the function takes: a rule's order carries its reason, a person's may be bare."""
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):  # some functions written in C
        return {}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return args
    by_name = {
        parameter.name
        for parameter in parameters
        if parameter.kind in {parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD}
    }
    return {name: value for name, value in args.items() if name in by_name}

"""What can go wrong, as users of the agent and of `Client` see it.

    HolterError
    ├── SpoolError      a recording on disk can't be read
    └── ApiError        the service said no
        └── ServiceUnreachable

Nothing here is ever raised by `Run.log` and its companions: a recording must not end a training.
"""

from __future__ import annotations

__all__ = ["ApiError", "HolterError", "ServiceUnreachable", "SpoolError"]


class HolterError(Exception):
    """Something the user can act on. ``hint`` says how."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}. {hint}" if hint else message)
        self.message = message
        self.hint = hint


class SpoolError(HolterError):
    """A recording on disk is missing, or is not one."""


class ApiError(HolterError):
    """The service refused a request.

    ``status`` is the HTTP status (0 without an answer) and ``kind`` the error's type, such as ``run_not_found``.
    """

    def __init__(self, message: str, hint: str = "", *, status: int = 0, kind: str = "error") -> None:
        super().__init__(message, hint)
        self.status = status
        self.kind = kind


class ServiceUnreachable(ApiError):
    """No answer: nothing listens at the address, or it took too long."""

"""The shipper's process: ``python -m holter.shipping``, told by its first line of input what it is to do.

It is started by `holter.shipper` and has no other use. Its standard output is the link to the training; it ends by
itself when the training has ended and all is shipped, or after the time that the settings allow.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path

from holter import link
from holter.ending import Process
from holter.worker import Worker, ignore_signals

__all__ = ["main"]

NICENESS = 5  # the training goes first


def main() -> int:
    """Returns the exit status: 0, or 2 for a first line that is none."""
    ignore_signals()
    with contextlib.suppress(OSError, AttributeError):
        os.nice(NICENESS)
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything else prints must not break the link
    try:
        hello = link.read_hello(_first_line(0))
    except (ValueError, TypeError) as error:
        sys.stderr.write(f"holter.shipping is started by holter.init: {error}\n")
        return 2
    lock = threading.Lock()

    def tell(message: link.ToTraining) -> None:
        with lock, contextlib.suppress(OSError, ValueError):  # nobody listens any more
            link.write(output, message)

    trainer = Process(hello.pid, Path(hello.spool), hello.handle)
    Worker(hello, link.PipeControl(0, trainer.handle), tell, trainer=trainer).run()
    return 0


def _first_line(file: int) -> bytes:
    """Byte by byte: what follows belongs to the control, which waits for it by `select`."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(file, 1)):
        line += byte
    return line


if __name__ == "__main__":
    sys.exit(main())

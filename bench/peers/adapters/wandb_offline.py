"""wandb offline.

Its package has no public reader of the ``.wandb`` file (``wandb sync`` needs the network), so this one reads the
records that its log format keeps whole: 7 bytes of header, then blocks of 32 KiB with checksum, length and type of each
part (the LevelDB log format), each record a protobuf message of ``wandb.proto``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from . import Agent, Log

BLOCK = 32 * 1024
PART = struct.Struct("<IHB")  # checksum, length, type
WHOLE, FIRST, _MIDDLE, LAST = 1, 2, 3, 4


class Wandb(Agent):
    history_points = 100_000

    def begin(self) -> Log:
        import wandb

        settings = wandb.Settings(silent=True)
        self.run = wandb.init(mode="offline", dir=str(self.folder), project="bench", settings=settings)
        self.remember(self.run.id)
        return self.run.log

    def end(self) -> None:
        self.run.finish()

    def read(self) -> dict[str, list[tuple[int, float]]]:
        return self._read(self.identity_of())

    def fill(self, run: str, metrics: Sequence[str], values: Any) -> None:
        log = self.begin()
        self.remember(self.run.id, run)
        for step, row in enumerate(values.tolist()):
            log(dict(zip(metrics, row, strict=True)), step)
        self.end()

    def history(self, run: str, metric: str) -> list[tuple[int, float]]:
        return self._read(self.identity_of(run))[metric]

    def _read(self, identity: str) -> dict[str, list[tuple[int, float]]]:
        from wandb.proto import wandb_internal_pb2

        (path,) = self.folder.glob(f"wandb/offline-run-*/run-{identity}.wandb")
        read: dict[str, list[tuple[int, float]]] = {}
        for body in _records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(body)
            if record.WhichOneof("record_type") == "history":
                _collect(record.history, read)
        return read


def _collect(history: Any, read: dict[str, list[tuple[int, float]]]) -> None:
    values = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in history.item}
    step = int(values["_step"])
    for name, number in values.items():
        if not name.startswith("_"):
            read.setdefault(name, []).append((step, number))


def _records(content: bytes) -> Iterator[bytes]:
    position, gathered = 7, b""
    while position + PART.size <= len(content):
        left = BLOCK - position % BLOCK
        if left < PART.size:  # too little for a header: padding
            position += left
            continue
        _, length, kind = PART.unpack_from(content, position)
        body = content[position + PART.size : position + PART.size + length]
        if kind == 0 or len(body) < length:
            return
        position += PART.size + length
        gathered = body if kind in (WHOLE, FIRST) else gathered + body
        if kind in (WHOLE, LAST):
            yield gathered


PEER = Wandb

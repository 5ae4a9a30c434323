"""What travels between a training and the service, in both of its encodings.

For the agent there are msgpack *frames*: columnar blocks of equal key sets (int64 steps, float64 times,
a float64 matrix), so that a thousand steps cost four byte strings. For people there is JSON with the same
content, where a non-finite number is the string ``"NaN"``, ``"Infinity"`` or ``"-Infinity"`` in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FRAME_MEDIA_TYPE",
    "METRIC_NAME_MAX",
    "VALUES_PER_FRAME_MAX",
    "VERSION",
    "Block",
    "CommandOrder",
    "CommandUpdate",
    "Event",
    "Frame",
    "IncidentNotice",
    "Receipt",
    "RunFinish",
    "RunStart",
    "WireError",
    "Writer",
    "array_to_json",
    "decode_frame",
    "decode_points",
    "dump_json",
    "encode_frame",
    "jsonable",
    "number_from_json",
    "number_to_json",
]

VERSION = 1
FRAME_MEDIA_TYPE = "application/vnd.holter.frame+msgpack"
METRIC_NAME_MAX = 256  # characters
VALUES_PER_FRAME_MAX = 500_000
INT64_MAX = 2**63 - 1

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class WireError(ValueError):
    """What arrived is not what the wire allows. The message says what is wrong, ``hint`` what to do."""

    def __init__(self, message: str, hint: str = "", *, kind: str = "invalid_points") -> None:
        super().__init__(message)
        self.hint = hint
        self.kind = kind


class Block(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive records that carry the same metrics: ``n`` rows of ``m`` values.

    ``steps`` is ``n`` little-endian int64, ``times`` ``n`` float64 (seconds, UTC), ``values`` ``n * m`` float64
    in row order. Bit patterns are kept: NaN, ±Inf and subnormal numbers arrive as they were logged.
    """

    metrics: tuple[str, ...]
    steps: bytes
    times: bytes
    values: bytes

    @classmethod
    def of(
        cls,
        metrics: Iterable[str],
        steps: IntArray | Iterable[int],
        times: FloatArray | Iterable[float],
        values: FloatArray | Iterable[Iterable[float]],
    ) -> Block:
        """Pack arrays of shapes ``(n,)``, ``(n,)`` and ``(n, m)``."""
        return cls(
            tuple(metrics),
            np.asarray(steps, dtype="<i8").tobytes(),
            np.asarray(times, dtype="<f8").tobytes(),
            np.ascontiguousarray(values, dtype="<f8").tobytes(),
        )

    @property
    def rows(self) -> int:
        return len(self.steps) // 8

    def step_array(self) -> IntArray:
        """Steps, shape ``(n,)``, read-only."""
        return np.frombuffer(self.steps, dtype="<i8")

    def time_array(self) -> FloatArray:
        """Seconds since the epoch, UTC, shape ``(n,)``, read-only."""
        return np.frombuffer(self.times, dtype="<f8")

    def value_matrix(self) -> FloatArray:
        """Values, shape ``(n, m)``, read-only."""
        return np.frombuffer(self.values, dtype="<f8").reshape(self.rows, len(self.metrics))

    def check(self) -> None:
        """Raise `WireError` unless the lengths agree and every metric name can be kept."""
        if len(self.steps) % 8 or len(self.times) != len(self.steps):
            raise WireError("A block's steps and times have different lengths", "Send n int64 and n float64.")
        if len(self.values) != self.rows * 8 * len(self.metrics):
            raise WireError(
                f"A block of {self.rows} rows and {len(self.metrics)} metrics needs "
                f"{self.rows * len(self.metrics)} float64 values, not {len(self.values) / 8:g}",
                "Send the matrix in row order.",
            )
        if len(set(self.metrics)) != len(self.metrics):
            raise WireError("A block names the same metric twice", "Log each metric once per record.")
        for name in self.metrics:
            check_metric_name(name)


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened at a moment of a run: a stage change, an alert of the user's, an exception."""

    time: float  # seconds, UTC
    text: str
    kind: str = "note"  # note | stage | alert | checkpoint | exception | config | ...
    step: int | None = None
    severity: Literal["info", "warning", "critical"] = "info"
    data: dict[str, Any] = {}


class CommandUpdate(msgspec.Struct, frozen=True, omit_defaults=True):
    """The training's answer to a command: seen (`acknowledged`), carried out (`done`) or not (`failed`)."""

    id: str
    state: Literal["acknowledged", "done", "failed"]
    time: float  # seconds, UTC
    result: str | None = None
    step: int | None = None


class Frame(msgspec.Struct, frozen=True, omit_defaults=True):
    """One shipment of one writer. (run, attempt, writer, seq) names it, so sending it twice changes nothing."""

    version: int
    attempt: str  # made by the agent, one per process lifetime of the run; "" means the run's newest attempt
    writer: str  # "rank0"
    seq: int  # counts from 1 for each writer; 0 means: number it for me (then a retry is a new shipment)
    blocks: list[Block] = []
    events: list[Event] = []
    commands: list[CommandUpdate] = []
    promise: float | None = None  # seconds until the next sign of life at the latest
    dropped: int = 0  # points this writer has had to give up since it started

    def check(self) -> None:
        """Raise `WireError` unless the service can keep every point of the frame."""
        if self.version != VERSION:
            raise WireError(
                f"This service speaks version {VERSION} of the wire, not {self.version}",
                "Upgrade the older of the two: pip install -U holter",
                kind="unsupported_version",
            )
        if not self.writer or len(self.writer) > 64:
            raise WireError("A writer's name has 1 to 64 characters", 'Send "rank0", for example.')
        if not 0 <= self.seq <= INT64_MAX:
            raise WireError("seq counts from 1", "Send 1, 2, 3, … for each writer.")
        for block in self.blocks:
            block.check()
        values = sum(len(block.values) // 8 for block in self.blocks)
        if values > VALUES_PER_FRAME_MAX:
            raise WireError(
                f"One request carries at most {VALUES_PER_FRAME_MAX:,} values; this one has {values:,}",
                "Send it in parts, each with the next seq.",
                kind="too_many_values",
            )


class Writer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who writes: a rank, and where it runs."""

    name: str = "rank0"
    rank: int = 0
    world_size: int = 1
    host: str = ""
    device: str = ""
    pid: int = 0


class RunStart(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of ``POST /runs``. Sending it again (same id, same attempt) changes nothing."""

    project: str
    id: str | None = None  # made by the service when absent
    name: str | None = None
    config: dict[str, Any] = {}
    tags: list[str] = []
    group: str | None = None
    notes: str | None = None
    planned_steps: int | None = None
    attempt: str = ""
    writer: Writer = Writer()
    started_at: float | None = None  # seconds, UTC
    environment: dict[str, Any] = {}  # python, torch, git, argv, host


class RunFinish(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of ``POST /runs/{id}/finish``."""

    state: Literal["finished", "failed", "stopped"] = "finished"
    attempt: str = ""
    writer: str = ""
    time: float | None = None
    reason: str | None = None  # an exception's last line, a signal's name


class CommandOrder(msgspec.Struct, frozen=True, omit_defaults=True):
    """A command on its way to the training."""

    id: str
    name: str  # stop | checkpoint | dump | any name that `on_command` was given
    args: dict[str, Any] = {}
    requested_by: str = ""


class IncidentNotice(msgspec.Struct, frozen=True, omit_defaults=True):
    """An incident as the training hears of it."""

    id: str
    rule: str
    kind: str
    severity: str
    state: str
    metric: str
    message: str
    step: int | None = None


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """Answer to a frame. It is sent only once the frame is committed and synced to disk."""

    acknowledged: int  # the frame's seq
    duplicate: bool = False
    run_state: str = "running"
    commands: list[CommandOrder] = []
    incidents: list[IncidentNotice] = []


# --- encodings --------------------------------------------------------------------------------------------------

_frame_encoder = msgspec.msgpack.Encoder()
_frame_decoder = msgspec.msgpack.Decoder(Frame)


def encode_frame(frame: Frame) -> bytes:
    """The frame as msgpack."""
    return _frame_encoder.encode(frame)


def decode_frame(body: bytes) -> Frame:
    """Read and check a msgpack frame.

    Raises:
        WireError: the body is not msgpack, not a frame, or a frame that can't be kept whole.
    """
    try:
        frame = _frame_decoder.decode(body)
    except msgspec.DecodeError as error:
        raise WireError(f"The body is not a frame: {error}", "Send msgpack as holter.wire.Frame.") from None
    frame.check()
    return frame


class _JsonPoint(msgspec.Struct, forbid_unknown_fields=True):
    step: int
    values: dict[str, float | str]
    time: float | None = None


class _JsonPoints(msgspec.Struct, forbid_unknown_fields=True):
    points: list[_JsonPoint] = []
    events: list[Event] = []
    writer: str = "rank0"
    attempt: str = ""
    seq: int = 0
    promise: float | None = None


_points_decoder = msgspec.json.Decoder(_JsonPoints)


def decode_points(body: bytes, now: float) -> Frame:
    """Read the JSON form of a frame. Points without a time get ``now`` (seconds, UTC).

    Records that follow one another and carry the same metrics become one block; their order is kept.

    Raises:
        WireError: with the place in the body that is wrong.
    """
    try:
        parsed = _points_decoder.decode(body)
    except msgspec.DecodeError as error:
        hint = '{"points": [{"step": 7, "values": {"loss": 2.5}}], "writer": "rank0", "seq": 1}'
        raise WireError(f"The body is not what /points takes: {error}", f"Send {hint}") from None
    blocks = _blocks(parsed.points, now)
    frame = Frame(
        version=VERSION,
        attempt=parsed.attempt,
        writer=parsed.writer,
        seq=parsed.seq,
        blocks=blocks,
        events=parsed.events,
        promise=parsed.promise,
    )
    frame.check()
    return frame


def _blocks(points: list[_JsonPoint], now: float) -> list[Block]:
    groups: list[tuple[tuple[str, ...], list[int], list[float], list[list[float]]]] = []
    for index, point in enumerate(points):
        if not -INT64_MAX <= point.step <= INT64_MAX:
            raise WireError(f"points[{index}].step does not fit into 64 bits", "Send the step as an integer.")
        metrics = tuple(point.values)
        row = [number_from_json(value, f"points[{index}].values[{name!r}]") for name, value in point.values.items()]
        if not groups or groups[-1][0] != metrics:
            groups.append((metrics, [], [], []))
        groups[-1][1].append(point.step)
        groups[-1][2].append(now if point.time is None else point.time)
        groups[-1][3].append(row)
    return [Block.of(metrics, steps, times, rows) for metrics, steps, times, rows in groups]


def check_metric_name(name: str) -> None:
    """Raise `WireError` for a name that can't be stored or shown."""
    if not name or len(name) > METRIC_NAME_MAX:
        shown = f"{name[:40]}…" if name else "(empty)"
        raise WireError(
            f"A metric's name has 1 to {METRIC_NAME_MAX} characters; {shown} has {len(name):,}",
            'Use a name such as "loss/precursor".',
            kind="invalid_metric_name",
        )
    if "\x00" in name or "\n" in name:
        raise WireError("A metric's name holds no line break and no NUL", kind="invalid_metric_name")


# --- numbers in JSON --------------------------------------------------------------------------------------------


def number_from_json(value: float | str, where: str = "value") -> float:
    """A number as it stands in JSON: a JSON number, or "NaN", "Infinity", "-Infinity".

    >>> number_from_json("-Infinity")
    -inf
    """
    if isinstance(value, str):
        if value not in _NON_FINITE:
            raise WireError(f"{where} is {value[:40]!r}", 'Send a number, or "NaN", "Infinity" or "-Infinity".')
        return _NON_FINITE[value]
    return float(value)


def number_to_json(value: float) -> float | str:
    """The inverse of `number_from_json`.

    >>> number_to_json(float("nan"))
    'NaN'
    """
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def jsonable(value: Any, array: Callable[[NDArray[Any]], Any] | None = None) -> Any:
    """``value`` with arrays as lists and every non-finite number as its string, ready for any JSON encoder.

    Args:
        array: what becomes of an array, for an encoder that knows arrays; `array_to_json` where None.
    """
    match value:
        case float():
            return number_to_json(value)
        case np.ndarray():
            return (array or array_to_json)(value)
        case np.generic():
            return jsonable(value.item())
        case str() | int() | None:
            return value
        case Mapping():
            return {str(key): jsonable(item, array) for key, item in value.items()}
        case msgspec.Struct():
            return {name: jsonable(getattr(value, name), array) for name in value.__struct_fields__}
        case list() | tuple() | set() | frozenset():
            return [jsonable(item, array) for item in value]
    return str(value)


def array_to_json(array: NDArray[Any]) -> list[Any]:
    """The array as a list in which every non-finite number is its string."""
    if array.dtype.kind != "f" or array.ndim != 1:
        return [jsonable(item) for item in array.tolist()]
    numbers: list[Any] = array.tolist()
    for index in np.flatnonzero(~np.isfinite(array)):
        numbers[index] = number_to_json(numbers[index])
    return numbers


def dump_json(value: Any) -> bytes:
    """UTF-8 JSON of ``value``; see `jsonable` for what becomes of arrays and non-finite numbers."""
    return msgspec.json.encode(jsonable(value))

"""What a step learned from, as the flight recorder keeps it: ids, how many, and a fingerprint. No data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from holter.values import clean_text

__all__ = ["IDS_MAX", "Batch", "batch_of"]

IDS_MAX = 64  # kept verbatim
HASHED_MAX = 4 << 20  # bytes of host data behind a fingerprint; of more, the beginning and the end
COPIED_MAX = 1 << 20  # bytes of a device tensor that are copied there
ID_CHARACTERS_MAX = 200


class Batch:
    """``count`` examples. What lies on a device is read only by `ids` and `fingerprint`, which may wait for it."""

    def __init__(self, count: int, ids: list[str], fingerprint: str | None, on_device: Any = None) -> None:
        self.count = count
        self.copy = on_device  # a tensor, None where nothing was copied
        self._ids, self._fingerprint = ids, fingerprint

    def ids(self) -> list[str]:
        if self.copy is not None and _is_id_like(self.copy):
            return [str(number) for number in self.copy[:IDS_MAX].tolist()]
        return self._ids

    def fingerprint(self) -> str | None:
        """16 hexadecimal digits, alike for equal data; None where the data stayed on its device."""
        return self._fingerprint if self.copy is None else _hash_arrays([self.copy.cpu().numpy()])


def batch_of(given: Any) -> Batch:
    """What the user calls a batch: a list of ids, an array or tensor of ids or of data, or a mapping of those."""
    if isinstance(given, str | bytes | int):
        given = [given]
    if isinstance(given, Mapping):
        return _of_mapping(given)
    if hasattr(given, "__array__") or hasattr(given, "detach"):
        return _of_array(given)
    return _of_list(list(given) if isinstance(given, Iterable) else [given])


def _of_mapping(given: Mapping[Any, Any]) -> Batch:
    for name in ("ids", "id", "index", "indices", "idx"):
        if name in given:
            return batch_of(given[name])
    parts = [batch_of(value) for value in given.values() if hasattr(value, "shape")]
    if not parts:
        return batch_of(next(iter(given.values()))) if given else Batch(0, [], None)
    known = [part.fingerprint() for part in parts if part.copy is None]
    together = None if None in known or not known else _hash("".join(map(str, known)).encode())
    copied = [part.copy for part in parts if part.copy is not None]
    return Batch(parts[0].count, parts[0]._ids, together, copied[0] if copied and not known else None)


def _of_array(given: Any) -> Batch:
    count = int(given.shape[0]) if len(given.shape) else 1
    if hasattr(given, "detach"):
        given = given.detach()
        if given.device.type != "cpu":
            small = given.numel() * given.element_size() <= COPIED_MAX
            return Batch(count, [], None, given.reshape(-1).clone() if small and len(given.shape) <= 1 else None)
        if str(given.dtype) == "torch.bfloat16":
            given = given.float()
        given = given.numpy()
    array = np.asarray(given)
    listed = array.ndim <= 1 and array.dtype.kind in "iubUSO"
    ids = [_text(item) for item in array.reshape(-1)[:IDS_MAX].tolist()] if listed else []
    if array.dtype.kind == "O":
        return Batch(count, ids, _hash_texts(array.reshape(-1).tolist()))
    return Batch(count, ids, _hash_arrays([array]))


def _of_list(items: list[Any]) -> Batch:
    if items and hasattr(items[0], "shape") and len(items[0].shape) > 0:
        return _of_mapping(dict(enumerate(items)))  # (inputs, targets), as a DataLoader gives them
    if items and hasattr(items[0], "detach") and items[0].device.type != "cpu":
        return Batch(len(items), [], None)
    return Batch(len(items), [_text(item) for item in items[:IDS_MAX]], _hash_texts(items))


def _text(item: Any) -> str:
    item = item.item() if hasattr(item, "item") else item
    text = item.decode("utf-8", "replace") if isinstance(item, bytes) else clean_text(item)
    return text[:ID_CHARACTERS_MAX]


def _is_id_like(tensor: Any) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex()


def _hash_texts(items: list[Any]) -> str:
    return _hash("\0".join(_text(item) for item in items[:100_000]).encode("utf-8", "surrogatepass"))


def _hash_arrays(arrays: list[np.ndarray[Any, Any]]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if data.size > HASHED_MAX:
            data = np.concatenate([data[: HASHED_MAX // 2], data[-HASHED_MAX // 2 :]])
        digest.update(data.tobytes())
    return digest.hexdigest()


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()

"""A small raster image: lines, rectangles and text on a white page, as PNG.

A picture in a chat is 640 pixels wide and has one curve. numpy and zlib are enough for that; Pillow or a headless
browser would be megabytes more in everybody's installation.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from holter_server.notify.letters import GLYPH_HEIGHT, GLYPH_WIDTH, glyph

__all__ = ["Colour", "Raster"]

Colour = tuple[int, int, int]
FloatArray = NDArray[np.float64]


class Raster:
    """``width`` × ``height`` pixels; x goes right, y goes down, both in pixels."""

    def __init__(self, width: int, height: int, paper: Colour = (255, 255, 255)) -> None:
        self.width, self.height = width, height
        self._pixels: FloatArray = np.empty((height, width, 3))
        self._pixels[:] = paper

    def rectangle(self, box: tuple[float, float, float, float], colour: Colour, opacity: float = 1.0) -> None:
        """Fill (left, top, right, bottom); what lies outside the page is cut off."""
        left, top, right, bottom = box
        x0, x1 = (int(np.clip(round(x), 0, self.width)) for x in (left, max(right, left + 1)))
        y0, y1 = (int(np.clip(round(y), 0, self.height)) for y in (top, max(bottom, top + 1)))
        part = self._pixels[y0:y1, x0:x1]
        part += (np.array(colour) - part) * opacity

    def line(self, x: FloatArray, y: FloatArray, colour: Colour, *, thickness: float = 1.6) -> None:
        """Draw a line through points of shape (n,); a NaN in either interrupts it. Its edges are smooth."""
        coverage = np.zeros((self.height, self.width))
        for index in range(len(x) - 1):
            ends = np.array([x[index], y[index], x[index + 1], y[index + 1]])
            if np.isfinite(ends).all():
                self._segment(coverage, ends, thickness)
        part = coverage[..., None]
        self._pixels += (np.array(colour) - self._pixels) * part

    def _segment(self, coverage: FloatArray, ends: FloatArray, thickness: float) -> None:
        """Raise the coverage of the pixels near a segment, by their distance to it."""
        reach = thickness / 2 + 1
        left, right = sorted((ends[0], ends[2]))
        low, high = sorted((ends[1], ends[3]))
        x0, x1 = max(0, int(left - reach)), min(self.width, int(right + reach) + 2)
        y0, y1 = max(0, int(low - reach)), min(self.height, int(high + reach) + 2)
        if x0 >= x1 or y0 >= y1:
            return
        columns, rows = np.meshgrid(np.arange(x0, x1) - ends[0], np.arange(y0, y1) - ends[1])
        along = ends[2:] - ends[:2]
        length = float(along @ along)
        at = np.clip((columns * along[0] + rows * along[1]) / length, 0, 1) if length else np.zeros_like(columns)
        distance = np.hypot(columns - at * along[0], rows - at * along[1])
        part = coverage[y0:y1, x0:x1]
        np.maximum(part, np.clip(thickness / 2 + 0.5 - distance, 0, 1), out=part)

    def text(self, left: float, top: float, text: str, colour: Colour, *, scale: int = 1) -> None:
        """Write one line; letters are `GLYPH_WIDTH` × `GLYPH_HEIGHT` pixels times ``scale``."""
        x, y = int(left), int(top)
        for letter in text:
            bits = np.kron(glyph(letter), np.ones((scale, scale), dtype=bool))
            height, width = bits.shape
            if x >= 0 and y >= 0 and x + width <= self.width and y + height <= self.height:
                self._pixels[y : y + height, x : x + width][bits] = colour
            x += (GLYPH_WIDTH + 1) * scale

    @staticmethod
    def text_width(text: str, scale: int = 1) -> int:
        """Pixels that `text` takes."""
        return len(text) * (GLYPH_WIDTH + 1) * scale

    @staticmethod
    def text_height(scale: int = 1) -> int:
        """Pixels from the top of a letter to its bottom."""
        return GLYPH_HEIGHT * scale

    def png(self) -> bytes:
        """The page as a PNG file (RFC 2083): 8 bits a channel, no filter."""
        pixels = np.clip(np.rint(self._pixels), 0, 255).astype(np.uint8)
        rows = np.concatenate([np.zeros((self.height, 1), np.uint8), pixels.reshape(self.height, -1)], axis=1)
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

"""Keeps the frames of a clip in a temporary file, so that memory does not grow with the clip's length."""

from __future__ import annotations

import tempfile
import zlib
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray


class DiskArrays:
    """Stores uint8 arrays by key, compressed, in a temporary file that exists within a `with` block."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._places: dict[object, tuple[int, int, tuple[int, ...]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def put(self, key: object, array: NDArray[np.uint8]) -> None:
        """Store an array. A later array of the same key replaces it."""
        data = zlib.compress(np.ascontiguousarray(array).tobytes(), 1)
        self._places[key] = (self._file.seek(0, 2), len(data), array.shape)
        self._file.write(data)

    def get(self, key: object) -> NDArray[np.uint8]:
        """Return the array of this key. Raises KeyError if there is none."""
        place, length, shape = self._places[key]
        self._file.seek(place)
        return np.frombuffer(zlib.decompress(self._file.read(length)), np.uint8).reshape(shape)

"""The byte stream format: NAL units of a bitstream, and its bits with and without SEI."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from fastpart.errors import FastpartError

#: nal_unit_type of prefix and suffix SEI (H.266 Table 5).
SEI_TYPES = (23, 24)


def bitstream_bits(path: str | os.PathLike) -> dict[str, int]:
    """Bits of a byte stream file, `total`, and those of its SEI NAL units, `sei`.

    Walks the byte stream format (H.266 Annex B). A NAL unit counts with its start code,
    the zero byte before that, and the zero bytes that trail it, so that total - sei is
    what the same encode would have written without SEI messages.
    Raises FastpartError when the file is no such stream.
    """
    path = Path(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            starts = _nal_starts(data)
            if not starts or data[: starts[0][0]].strip(b"\0"):
                raise FastpartError(f"{path}: no start code at its beginning, wanted an H.266 stream")
            ends = [begin for begin, _ in starts[1:]] + [len(data)]
            sei = sum(
                end - begin
                for (begin, header), end in zip(starts, ends, strict=True)
                if header + 1 < len(data) and data[header + 1] >> 3 in SEI_TYPES
            )
            return {"total": 8 * len(data), "sei": 8 * sei}
    except (OSError, ValueError) as error:
        raise FastpartError(f"{path}: cannot be read as a bitstream: {error}") from error


def nal_units(path: str | os.PathLike) -> list[bytes]:
    """The NAL units of a byte stream file, without start codes and zero bytes around them."""
    data = Path(path).read_bytes()
    starts = _nal_starts(data)
    ends = [begin for begin, _ in starts[1:]] + [len(data)]
    return [data[header:end].rstrip(b"\0") for (_, header), end in zip(starts, ends, strict=True)]


def _nal_starts(data) -> list[tuple[int, int]]:
    """(first byte counted to the NAL unit, first byte of its header) of each NAL unit."""
    starts = []
    at = data.find(b"\0\0\1")
    while at >= 0:
        zero_byte = at > 0 and data[at - 1] == 0
        starts.append((at - zero_byte, at + 3))
        at = data.find(b"\0\0\1", at + 3)
    return starts

"""What a packed submission holds; pack and check agree here.

submission.json   schema, fastpart, created, bit_depth, points (sequence, qp) and files: bytes and
                  SHA-256 by name
SHA256SUMS        the same for `sha256sum -c`
streams/          SEQUENCE_qpQP.266 and what the decoder gives of it, .yuv: raw 4:2:0 at bit_depth;
                  a folder that `fastpart verify --submission` takes
verdict.json      record of fastpart verify
report.csv, report.xlsx   RD data and BD-rates of it
factsheet.md, methodology.md, and both as .pdf
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastpart.errors import FastpartError

SCHEMA = "fastpart.submission/1"
MANIFEST, SUMS, VERDICT, STREAMS = "submission.json", "SHA256SUMS", "verdict.json", "streams"
DOCUMENTS = ("factsheet", "methodology")
TABLES = ("report.csv", "report.xlsx")


def stream_name(sequence: str, qp: int) -> str:
    """Path of a bitstream in the folder."""
    return f"{STREAMS}/{sequence}_qp{qp}.266"


def pictures_name(sequence: str, qp: int) -> str:
    """Path of the decoded pictures in the folder."""
    return f"{STREAMS}/{sequence}_qp{qp}.yuv"


def load_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises FastpartError when it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FastpartError(f"{path}: cannot be read ({error})") from error
    if not isinstance(data, dict):
        raise FastpartError(f"{path}: no JSON object, wanted one")
    return data

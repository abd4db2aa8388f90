"""The timing record: the one result of a measured encode, of which tables and verdicts are views.

One JSON file an encode, CUT_qpQP_VARIANT_rREP.json, beside its bitstream (.266) and the
encoder's log (.log). An anchor that had to be run again to pair with late variants, while
its first record still serves others, gets _p2, _p3, ... after that. Keys a reader does not
know are to be ignored.

schema          "fastpart.timing/1"; the number rises when a key changes its meaning
cut             name of the test sequence; cut_definition: its entry in the cuts file
qp              base quantisation parameter
variant         name in the plan; "anchor" or "entry" of a verification
rep             repetition, from 0; odd ones run the variants in reverse order
pairing         id: shared by the encodes that ran one after the other on one core, or
                side_by_side on it at the same time, and the only
                ones whose times may be compared; order: variants of that series as they ran;
                position: of this one in it; resumed: other variants of this point and
                repetition were measured in an earlier series
identity        what the result depends on, and what must be equal for it not to be run again:
                encoder, model, cfg, clip (SHA-256 of the binary, of the model file or null, of
                the configuration, of the raw cut), intra_period, options of the variant
                (FastPartModel aside); qp: of an entry whose rate was matched, where it is
                another than the point's, which need not be whole
encode          the run record of the encode, see fastpart.record: times (user_s, system_s, wall_s
                of the encoder process alone), max_rss_kib, involuntary_switches, core, argv,
                kbps, kbps_without_sei, counters, pictures, machine, ...
psnr            y, u, v: averages over the pictures of the file that the stock decoder writes,
                against the cut, dB; weighted: (6y + u + v) / 8; null if it could not be decoded
vmaf            of that file, mean over the pictures; only where it was asked for
conformance     conforms: no problem was found; pictures: coded; pictures_ok: those whose hash the
                stock decoder confirmed; reconstruction_equal: its output is the encoder's
                reconstruction, byte for byte; ffmpeg_equal: so is ffmpeg's own VVC decoder's;
                problems: sentences that name the stream and the picture; reference, hashes,
                decode_s: see fastpart.timing.conformance, reconstruction_equal and
                ffmpeg_equal are null where there was nothing to compare with; decoder: path
                and SHA-256, null if it was not asked; ffmpeg: its version
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastpart.errors import FastpartError

SCHEMA = "fastpart.timing/1"

_FAMILY = SCHEMA.partition("/")[0] + "/"


def stem(cut: str, qp: int, variant: str, rep: int, series: int = 1) -> str:
    """Name without suffix of the files of one encode; series counts re-run anchors from 2 on."""
    return f"{cut}_qp{qp}_{variant}_r{rep}" + (f"_p{series}" if series > 1 else "")


def layer_name(slice_type: str, tid: int) -> str:
    """Layer of a picture: "I", or "TId 0" and on; in the order of their names."""
    return "I" if slice_type.upper() == "I" else f"TId {tid}"


def is_side_by_side(record: dict[str, Any]) -> bool:
    """The encode shared its core with others of its pairing; it waited for it by design."""
    return record["pairing"].get("side_by_side", False)


def cpu_s(encode: Mapping[str, Any]) -> float:
    """CPU seconds of an encode, of its run record: user and system."""
    return encode["times"]["user_s"] + encode["times"]["system_s"]


def load_records(folder: str | Path) -> dict[Path, dict[str, Any]]:
    """All timing records in a folder, by path, in the order of their names.

    JSON files of another kind are left out. Raises FastpartError when one cannot be read or
    has a schema that this version does not know.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FastpartError(f"{folder}: no such folder; wanted one that fastpart timing run wrote")
    records = {}
    for path in sorted(folder.glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FastpartError(
                f"{path}: cannot be read as a record ({error}); delete it and run it again"
            ) from error
        schema = str(data.get("schema", "")) if isinstance(data, dict) else ""
        if schema.startswith(_FAMILY) and schema != SCHEMA:
            raise FastpartError(
                f"{path}: schema {schema}, wanted {SCHEMA}; use the fastpart that wrote it"
            )
        if schema == SCHEMA:
            records[path] = data
    return records

"""Where an encoder's time goes, by what the search tests and by temporal layer.

Linux's perf samples the call stacks of an unchanged binary: the functions of a stack say what it was busy with, the
encoder's log says in which picture. OUT/CUT_qpQP_VARIANT_r0.profile.json holds of each encode:

schema          "fastpart.profile/1"
cut, qp, variant, identity    as of a timing record
samples         samples by layer ("I", "TId 0", ...) and kind of work
"""

from __future__ import annotations

import bisect
import json
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fastpart.encode import DEFAULT_CFG
from fastpart.errors import FastpartError
from fastpart.files import write_json_atomic
from fastpart.media import named_cuts
from fastpart.timing.paired import cut_points, plan_backend, say, session_folder
from fastpart.timing.plan import Plan
from fastpart.timing.record import layer_name, stem
from fastpart.vtm import VtmHome, run_encoder

SCHEMA = "fastpart.profile/1"

#: Stacks a second, and the bytes of each: enough for the frames of a few nested splits.
RATE_HZ = 19
STACK_BYTES = 32768

#: Beginnings of function names, and the work they are for; the first of these found anywhere in a stack decides.
KINDS = (
    ("fastpart", "predictor"),
    ("IntraSearch::estIntraPredChromaQT", "intra, chroma"),
    ("EncCu::xCheckRDCostIntra", "intra, luma"),
    ("EncCu::xCheckRDCostUnifiedMerge", "merge and skip"),
    ("EncCu::xCheckRDCostInterAmvr", "inter, AMVR"),
    ("InterSearch::xPredAffineInterSearch", "inter, affine"),
    ("EncCu::xCheckRDCostInter", "inter"),
    ("EncCu::xCompressCU", "splits, bookkeeping"),
    ("EncCu::compressCtu", "splits, bookkeeping"),
    ("EncAdaptiveLoopFilter::", "adaptive loop filter"),
    ("EncTemporalFilter::", "temporal filter"),
)
OTHER = "other"


def profile_plan(
    plan: Plan, clips_root: Path, cuts_file: Path, out: Path, home: VtmHome, core: int
) -> list[dict[str, Any]]:
    """Sample one encode of each cut, QP and variant of the plan that has no valid record in out; returns all records.

    Raises FastpartError where `perf` is missing or may not be used, and for an encode that fails.
    """
    if not shutil.which("perf"):
        raise FastpartError("perf: not found, wanted Linux's perf on the path; install it for the running kernel")
    cuts, cfg = named_cuts(cuts_file, plan.cuts, plan.path), home.cfg(DEFAULT_CFG)
    backends = {name: plan_backend(variant, home, cfg) for name, variant in plan.variants.items()}
    records = []
    with session_folder(out) as session:
        for cut in cuts:
            for point in cut_points(cut, clips_root, session, plan.qps, plan.intra_period):
                for variant, backend in backends.items():
                    path = out / f"{stem(cut['name'], point.qp, variant, 0)}.profile.json"
                    identity = {**backend.identity(), "clip": point.clip_sha256, "intra_period": point.intra_period}
                    record = _known(path, identity)
                    if record is None:
                        argv = backend.command(
                            point.clip, point.qp, session / "stream.266", intra_period=point.intra_period
                        )
                        record = {
                            "schema": SCHEMA, "cut": cut["name"], "qp": point.qp, "variant": variant,
                            "identity": identity, "samples": _sample(argv, session, core),
                        }
                        write_json_atomic(path, record)
                        say(f"{point.name} {variant}: {_total(record)} samples")
                    records.append(record)
    return records


def _known(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise FastpartError(f"{path}: cannot be read ({error}); delete it") from error
    return record if (record.get("schema"), record.get("identity")) == (SCHEMA, identity) else None


def _total(record: dict[str, Any]) -> int:
    return sum(sum(kinds.values()) for kinds in record["samples"].values())


def _sample(argv: Sequence[str], session: Path, core: int) -> dict[str, dict[str, int]]:
    data = session / "perf.data"
    ends: list[float] = []
    layers: list[str] = []

    def picture(coded) -> None:
        ends.append(time.clock_gettime(time.CLOCK_MONOTONIC))
        layers.append(layer_name(coded.slice_type, coded.tid))

    perf = [
        "perf", "record", "-q", "-F", str(RATE_HZ), "-k", "CLOCK_MONOTONIC",
        "--call-graph", f"dwarf,{STACK_BYTES}", "-o", str(data), "--",
    ]
    run_encoder([*perf, *argv], session / "encode.log", picture, core)
    script = subprocess.Popen(
        ["perf", "script", "-i", str(data), "--no-inline", "-F", "time,ip,sym"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    with script:
        samples = count_samples(stacks(script.stdout), ends, layers)
    if script.returncode or not samples:
        raise FastpartError(
            f"perf script: exit code {script.returncode} and {'some' if samples else 'no'} samples, wanted 0 and some; "
            "is kernel.perf_event_paranoid above 2?"
        )
    data.unlink()
    return samples


def stacks(lines: Iterable[str]) -> Iterator[tuple[float, list[str]]]:
    """Time in seconds and functions, innermost first, of each sample in the output of `perf script -F time,ip,sym`."""
    moment: float | None = None
    functions: list[str] = []
    for line in lines:
        words = line.split(None, 1)
        if not words:
            if moment is not None:
                yield moment, functions
            moment, functions = None, []
        elif moment is None:
            moment = float(words[0].rstrip(":"))
        elif len(words) == 2:
            functions.append(words[1].strip())
    if moment is not None:
        yield moment, functions


def kind_of(functions: Sequence[str]) -> str:
    """What a stack was busy with: one of the kinds of `KINDS`, or `OTHER`."""
    for start, kind in KINDS:
        if any(function.startswith(start) for function in functions):
            return kind
    return OTHER


def count_samples(
    samples: Iterable[tuple[float, Sequence[str]]], ends: Sequence[float], layers: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Samples by layer and kind. ends: when each picture was done, ascending, on the clock of the samples; layers: of
    the same pictures. What comes after the last picture counts with it."""
    counts: dict[str, Counter[str]] = {}
    for moment, functions in samples:
        index = min(bisect.bisect_left(ends, moment), len(ends) - 1)
        counts.setdefault(layers[index], Counter())[kind_of(functions)] += 1
    return {layer: dict(counts[layer]) for layer in sorted(counts)}


def to_markdown(records: Sequence[dict[str, Any]]) -> str:
    """Shares in percent of all samples of an encode: a column for each, rows by kind and by layer."""
    totals = [Counter() for _ in records]
    for total, record in zip(totals, records, strict=True):
        for layer, kinds in record["samples"].items():
            total[layer] += sum(kinds.values())
            total.update(kinds)
    sums = [_total(record) for record in records]
    layers = sorted({layer for record in records for layer in record["samples"]})
    kinds = [*dict.fromkeys(kind for _, kind in KINDS), OTHER]
    lines = [
        "| | " + " | ".join(f"{r['cut']} QP {r['qp']} {r['variant']}" for r in records) + " |",
        "|---|" + "---|" * len(records),
    ]
    for row in [*kinds, *layers]:
        shares = [f"{100 * total[row] / count:.1f}" for total, count in zip(totals, sums, strict=True)]
        lines.append(f"| {row} | " + " | ".join(shares) + " |")
    lines.append("| samples | " + " | ".join(map(str, sums)) + " |")
    return "\n".join(lines) + "\n"

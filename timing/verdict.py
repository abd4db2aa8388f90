"""The verdict: the one result of `fastpart verify`, of which the table and the report are views.

`build_verdict` makes it of the records of a run; it is stored as verdict.json. Every status is
"pass", "fail", "inconclusive" or "not_measured"; absent numbers are null; keys a reader does
not know are to be ignored.

schema          "fastpart.verdict/1"; fastpart: version of this package; created: UTC, ISO 8601
edition         name, title, codec, qps, time_limit (ratio or null), rate_rule (rule, low and high,
                percent, count_sei), decoders, psnr_weights, source (name or path), note
anchor, entry   name, label, identity (hashes, versions, options), command: an example
machine         see fastpart.record.describe_machine; compilers: of anchor and entry
commands        verify: the command line
points          list: sequence, class, qp, frames, width, height, bit_depth, fps, intra_period;
                anchor, entry: bits, sei_bits, kbps, kbps_without_sei, psnr (y, u, v, weighted, dB,
                of the decoded file), vmaf, encode_s (geometric mean of user + system seconds
                of all that the encoder started), decode_s, runs; entry is null if there is none
                time: ratio, low, high (see fastpart.timing.statistics), repetitions, basis ("cpu",
                or "wall" where the entry's CPU time is not believable), status, reason
                rate: percent of the anchor's at this QP, low, high (allowed), status, reason
                conformance: status, reason, problems
                matching: qp and target_ratio (null: its own) that the entry was encoded with to have a wanted
                rate and time, trials before, as in fastpart.timing.matching; null where that was not asked for
                status, reasons
sequences       list: sequence, class, bd_rate and bd_rate_akima (y, u, v, weighted; percent),
                time_ratio (geometric mean), delta_time_percent (100 (T - 1)), notes
classes         list: class, sequences (number), bd_rate, time_ratio
overall         bd_rate, bd_rate_akima, time_ratio, worst_time_ratio, status, reasons

A time passes when the upper 95 % confidence bound of the ratio is within the limit, and fails when
the lower one is not. It fails too when a second thread or another core was used, or a process had
to be killed. An entry that neither computes nor waits for its core for more than IDLE_SHARE of its
time may let others work: it is judged by wall time if that is larger, and cannot pass.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from fastpart import __version__
from fastpart.errors import FastpartError
from fastpart.quality import bd_rate, curve_notes
from fastpart.timing.edition import RATE_RULES, Edition
from fastpart.timing.record import cpu_s, is_side_by_side
from fastpart.timing.statistics import paired_ratio, repetitions_to_settle

SCHEMA = "fastpart.verdict/1"

PASS, FAIL, INCONCLUSIVE, NOT_MEASURED = "pass", "fail", "inconclusive", "not_measured"

#: CPU time beside the busiest thread that counts as a second one: share of the CPU time, and
#: seconds.
SECOND_THREAD = (0.01, 0.1)

#: Time that an entry may neither compute nor wait for its core: share of its time, and seconds.
IDLE_SHARE = (0.05, 0.3)

#: Waiting for the core beyond this share of the time: other work disturbed the measurement.
DISTURBED_SHARE = 0.05

_PLANES = ("y", "u", "v", "weighted")


@dataclass(frozen=True)
class Test:
    """What a point asks for; the names are those of the verdict. class_name: its class."""

    sequence: str
    class_name: str
    qp: int
    frames: int
    width: int
    height: int
    bit_depth: int
    fps: str
    intra_period: int

    @property
    def key(self) -> tuple[str, int]:
        return self.sequence, self.qp


@dataclass(frozen=True)
class Results:
    """What was found at a point. anchor, entry: timing records (`fastpart.timing.record`), or, of
    ready bitstreams, records with the keys bits, psnr, conformance, vmaf and time null.
    failure: why there is no entry. matching: as in the verdict."""

    anchor: Sequence[dict[str, Any]]
    entry: Sequence[dict[str, Any]]
    failure: str | None = None
    matching: Mapping[str, Any] | None = None


def build_verdict(
    edition: Edition,
    found: Mapping[Test, Results],
    *,
    anchor: Mapping[str, Any],
    entry: Mapping[str, Any],
    machine: Mapping[str, Any],
    command: str,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The verdict on an entry; its keys are described at the top of this file.

    notes: sentences for overall.reasons. Raises FastpartError without the `bjontegaard` package.
    """
    by_sequence: dict[str, list[Test]] = defaultdict(list)
    for test in found:
        by_sequence[test.sequence].append(test)
    points = []
    for tests in by_sequence.values():
        sides = {test: (_side(found[test].anchor, edition), _side(found[test].entry, edition))
                 for test in tests}
        rates = {test.qp: _rate(anchor_side, edition) for test, (anchor_side, _) in sides.items()}
        windows = edition.rate.windows(rates)
        points += [
            _point(test, found[test], *sides[test], windows[test.qp], edition) for test in tests
        ]
    sequences = [
        _sequence(name, [p for p in points if p["sequence"] == name]) for name in by_sequence
    ]
    classes = []
    for name in dict.fromkeys(sequence["class"] for sequence in sequences):
        members = [sequence for sequence in sequences if sequence["class"] == name]
        classes.append({
            "class": name, "sequences": len(members), "bd_rate": _means(members, "bd_rate"),
            "time_ratio": _geometric_mean(m["time_ratio"] for m in members),
        })
    return {
        "schema": SCHEMA,
        "fastpart": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "edition": {
            "name": edition.name, "title": edition.title, "codec": edition.codec,
            "qps": list(edition.qps), "time_limit": edition.time_limit,
            "rate_rule": asdict(edition.rate), "decoders": list(edition.decoders),
            "psnr_weights": list(edition.psnr_weights), "source": edition.source,
            "note": edition.note,
        },
        "anchor": dict(anchor),
        "entry": dict(entry),
        "machine": dict(machine),
        "commands": {"verify": command},
        "points": points,
        "sequences": sequences,
        "classes": classes,
        "overall": _overall(points, sequences, edition, notes),
    }


def judge_time(
    pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    limit: float | None,
    single_thread: bool = True,
    side_by_side: bool = False,
) -> dict[str, Any]:
    """The time entry of a point, from pairs of encode records (anchor, entry).

    limit: None to tell the ratio without judging it. side_by_side: the two of a pair shared a core.
    """
    blank = {"ratio": None, "low": None, "high": None, "repetitions": len(pairs), "basis": None}
    if not pairs:
        return {**blank, "status": INCONCLUSIVE, "reason": "no pair of encodes was completed"}
    broken = list(dict.fromkeys(
        text for _, entry in pairs for text in _broken_rules(entry, single_thread)
    ))
    idle = [entry for _, entry in pairs if _is_idle(entry)]
    basis = "wall" if idle else "cpu"
    # Nothing takes no time: a clock tick at least.
    ratio = paired_ratio([
        max(_seconds(entry, basis), 0.01) / max(_seconds(anchor, "cpu"), 0.01)
        for anchor, entry in pairs
    ])
    result = {**blank, "ratio": ratio.value, "low": ratio.low, "high": ratio.high, "basis": basis}
    doubts = []
    if idle:
        most = max(idle, key=_idle_s)
        doubts.append(
            f"its CPU time is not believable: {_idle_s(most):.1f} of "
            f"{most['times']['wall_s']:.1f} s it neither computed nor waited for its core "
            "(sleeps, or work done elsewhere); judged by wall time"
        )
    if any(entry["process"]["accounting"] == "sampled" for _, entry in pairs):
        doubts.append(
            "it hides processes from the system's account: the samples saw more CPU time"
        )
    text = f"T {ratio.value:.3f}, 95 % bounds {ratio.low:.3f} to {ratio.high:.3f} of {ratio.n} " + (
        "pairs" if ratio.n > 1 else f"pair at the default spread of {ratio.spread:.0%}"
    )
    if side_by_side:
        text += ", side by side"
    disturbed = 0 if side_by_side else sum(
        run["process"]["run_delay_s"] > DISTURBED_SHARE * run["times"]["wall_s"]
        for pair in pairs for run in pair
    )
    if disturbed:
        text += (
            f"; other work held the core for more than {DISTURBED_SHARE:.0%} of the time in "
            f"{disturbed} of {2 * len(pairs)} encodes"
        )
    if limit is None:
        status = FAIL if broken else NOT_MEASURED
        return {**result, "status": status,
                "reason": "; ".join([*broken, *doubts, text, "the edition has no time limit"])}
    if broken or ratio.low > limit:
        status = FAIL
        text += f"; limit {limit:g}"
    elif ratio.high <= limit:
        status = INCONCLUSIVE if doubts else PASS
        text += f"; limit {limit:g}"
        if doubts:
            doubts.append("settle it with an entry that does not wait, or in a container")
    else:
        status = INCONCLUSIVE
        more = repetitions_to_settle(ratio, limit)
        text += f"; the limit {limit:g} lies between: " + (
            f"about {more - ratio.n} more repetitions would settle it (--repetitions {more})"
            if more else "too close to the limit to be settled by repeating"
        )
    return {**result, "status": status, "reason": "; ".join([*broken, *doubts, text])}


def _broken_rules(encode: Mapping[str, Any], single_thread: bool) -> list[str]:
    process = encode["process"]
    busy_s = cpu_s(encode)
    broken = []
    share, seconds = SECOND_THREAD
    if single_thread and process["second_thread_s"] > max(seconds, share * busy_s):
        broken.append(
            f"a second thread: {process['second_thread_s']:.1f} of {busy_s:.1f} s of CPU time were "
            "used beside the busiest thread, wanted one thread"
        )
    if single_thread and (
        len(process["cpus"]) > 1
        or (encode["core"] is not None and set(process["cpus"]) - {encode["core"]})
    ):
        broken.append(
            f"a second core: it left CPU {encode['core']}, to which it was pinned, and ran on CPUs "
            f"{', '.join(map(str, process['cpus']))}"
        )
    if process["left_running"]:
        broken.append("it left processes running after it ended, which had to be killed")
    return broken


def _idle_s(encode: Mapping[str, Any]) -> float:
    """Seconds in which the encoder neither computed nor waited for its core."""
    busy = cpu_s(encode) + encode["process"]["run_delay_s"]
    return max(0.0, encode["times"]["wall_s"] - busy)


def _is_idle(encode: Mapping[str, Any]) -> bool:
    share, seconds = IDLE_SHARE
    return _idle_s(encode) > max(seconds, share * encode["times"]["wall_s"])


def _seconds(encode: Mapping[str, Any], basis: str) -> float:
    """CPU seconds; by wall, with the time that it was idle besides."""
    return cpu_s(encode) + (_idle_s(encode) if basis == "wall" else 0.0)


def _side(records: Sequence[dict[str, Any]], edition: Edition) -> dict[str, Any] | None:
    """One encoder's results at a point; those that repetitions share come from the first."""
    if not records:
        return None
    first = records[0]
    encodes = [record["encode"] for record in records]
    psnr = first["psnr"]
    times = [cpu_s(encode) for encode in encodes if encode["times"]]
    bitstream = encodes[0]["bitstream"]
    return {
        "bits": bitstream["bits"],
        "sei_bits": bitstream["sei_bits"],
        "kbps": encodes[0]["kbps"],
        "kbps_without_sei": encodes[0]["kbps_without_sei"],
        "psnr": psnr and {
            **{plane: psnr[plane] for plane in "yuv"},
            "weighted": edition.weighted([psnr[plane] for plane in "yuv"]),
        },
        "vmaf": first.get("vmaf"),
        "encode_s": _geometric_mean(times),
        "decode_s": first["conformance"]["decode_s"],
        "runs": len(times),
    }


def _rate(side: Mapping[str, Any] | None, edition: Edition) -> float | None:
    return side and side["kbps" if edition.rate.count_sei else "kbps_without_sei"]


def _point(test, results, anchor, entry, window, edition) -> dict[str, Any]:
    pairs = _pairs(results)
    if edition.time_limit is not None and not any(r["encode"]["times"] for r in results.entry) \
            and not results.failure:
        time = {**judge_time((), None), "status": NOT_MEASURED, "reason": "ready bitstreams"}
    elif edition.time_limit is None and not pairs:
        time = {**judge_time((), None), "status": NOT_MEASURED,
                "reason": "the edition has no time limit"}
    else:
        time = judge_time(
            pairs, edition.time_limit, edition.single_thread,
            any(map(is_side_by_side, results.entry)),
        )
    if results.failure:
        missing = {"status": FAIL, "reason": "no bitstream"}
        time = {**time, "status": FAIL, "reason": "the entry did not finish"}
        rate = {"percent": None, "low": None, "high": None, **missing}
        conformance = {**missing, "problems": [results.failure]}
        reasons = [results.failure]
        status = FAIL
    else:
        rate = _judge_rate(_rate(entry, edition), _rate(anchor, edition), window, edition)
        conformance = _judge_conformance(results, edition)
        judged = {"time": time, "rate": rate, "conformance": conformance}
        statuses = [one["status"] for one in judged.values()]
        status = next((s for s in (FAIL, INCONCLUSIVE, PASS) if s in statuses), NOT_MEASURED)
        reasons = [f"{name}: {one['reason']}" for name, one in judged.items()
                   if one["status"] in (FAIL, INCONCLUSIVE)]
        for side, records in (("anchor", results.anchor), ("entry", results.entry)):
            if len({record["encode"]["bitstream"]["sha256"] for record in records}) > 1:
                reasons.append(f"{side}: repetitions gave different bitstreams; rate and PSNR are "
                               "those of the first")
        streams = [{record["encode"]["bitstream"]["sha256"] for record in records}
                   for records in (results.anchor, results.entry)]
        if streams[0] & streams[1]:
            reasons.append("the entry's bitstream is the anchor's, byte for byte")
    described = asdict(test)
    described["class"] = described.pop("class_name")
    return {
        **described, "anchor": anchor, "entry": entry, "time": time, "rate": rate,
        "conformance": conformance, "matching": results.matching, "status": status, "reasons": reasons,
    }


def _pairs(results: Results) -> list[tuple[dict, dict]]:
    """Encodes of anchor and entry that may be compared."""
    anchors = {
        record["pairing"]["id"]: record["encode"] for record in results.anchor
        if record["encode"]["times"]
    }
    return [
        (anchors[record["pairing"]["id"]], record["encode"]) for record in results.entry
        if record["encode"]["times"] and record["pairing"]["id"] in anchors
    ]


def _judge_rate(rate: float, anchor: float, window, edition: Edition) -> dict[str, Any]:
    low, high = window
    percent, low_percent = 100 * rate / anchor, round(100 * low / anchor, 9)
    high_percent = None if math.isinf(high) else round(100 * high / anchor, 9)
    result = {"percent": percent, "low": low_percent, "high": high_percent}
    counted = "with SEI" if edition.rate.count_sei else "without SEI"
    if high_percent is None:
        return {**result, "status": PASS,
                "reason": f"{percent:.2f} % of the anchor's; the rule does not look at this point"}
    inside = low <= rate <= high
    return {
        **result, "status": PASS if inside else FAIL,
        "reason": f"{rate:.2f} kbps {counted} are {percent:.2f} % of the anchor's, "
                  f"{'within' if inside else 'wanted'} {low_percent:.2f} to {high_percent:.2f} % "
                  f"({RATE_RULES[edition.rate.rule]})",
    }


def _judge_conformance(results: Results, edition: Edition) -> dict[str, Any]:
    if edition.codec != "vvc":
        return {"status": NOT_MEASURED, "problems": [],
                "reason": "only the entry's own decoder reads its bitstreams; its intra period "
                          "cannot be checked"}
    problems = list(dict.fromkeys(
        text for record in results.entry for text in record["conformance"]["problems"]
    ))
    if problems:
        return {"status": FAIL, "problems": problems, "reason": "; ".join(problems)}
    anchor = [text for record in results.anchor for text in record["conformance"]["problems"]]
    if anchor:
        return {"status": INCONCLUSIVE, "problems": [],
                "reason": f"the anchor itself does not conform: {anchor[0]}; settle that first"}
    first = results.entry[0]["conformance"]
    said = {
        "verified": "picture hashes verified", "absent": "no picture hashes in the stream",
        "unknown": "picture hashes not checked",
    }[first["hashes"]]
    how = ("ffmpeg's decoder alone read it (one decoder, not the stock one)"
           if first["reference"] == "none" else "both decoders give the same pictures")
    return {"status": PASS, "problems": [], "reason": f"{how}; {said}"}


def _sequence(name: str, points: list[dict[str, Any]]) -> dict[str, Any]:
    curves, notes = _curves(points)
    rates: dict[str, dict[str, float | None]] = {}
    for method in ("pchip", "akima"):
        rates[method] = dict.fromkeys(_PLANES)
        for plane in _PLANES if curves else ():
            try:
                rates[method][plane] = bd_rate(*curves[plane], method)
            except (FastpartError, ValueError) as error:
                if "bjontegaard:" in str(error):
                    raise
                if method == "pchip":
                    notes.append(f"{plane}: no BD-rate: {error}")
    for plane in _PLANES if curves else ():
        notes += [f"{plane}: {note}" for note in curve_notes(*curves[plane])]
    t = _geometric_mean(point["time"]["ratio"] for point in points)
    return {
        "sequence": name, "class": points[0]["class"], "bd_rate": rates["pchip"],
        "bd_rate_akima": rates["akima"], "time_ratio": t,
        "delta_time_percent": None if t is None else 100 * (t - 1), "notes": notes,
    }


def _curves(points: list[dict[str, Any]]):
    """By plane, anchor's and entry's points (kbps without SEI, dB); None with too few."""
    both = [
        (point["anchor"], point["entry"]) for point in points
        if point["anchor"] and point["entry"]
        and point["anchor"]["psnr"] and point["entry"]["psnr"]
    ]
    if len(both) < 4 or len(both) < len(points):
        return None, [f"no BD-rate: {len(both)} of {len(points)} points were decoded, wanted 4 "
                      "or more and all"]
    return {
        plane: [[(pair[side]["kbps_without_sei"], pair[side]["psnr"][plane]) for pair in both]
                for side in (0, 1)]
        for plane in _PLANES
    }, []


def _chosen(matching: Mapping[str, Any]) -> str:
    target = matching["target_ratio"]
    steered = "" if target is None else f", steered for {target:g} of the time without skips,"
    return (
        f"encoded at QP {matching['qp']:.2f}{steered} to have the rate or time asked for; "
        f"earlier encodes, which do not count: {len(matching['trials'])}"
    )


def _overall(points, sequences, edition, notes) -> dict[str, Any]:
    statuses = [point["status"] for point in points]
    status = next((s for s in (FAIL, INCONCLUSIVE, PASS) if s in statuses), NOT_MEASURED)
    reasons = [
        f"{point['sequence']} QP {point['qp']}: {reason}"
        for point in points for reason in point["reasons"]
    ]
    reasons += [
        f"{point['sequence']} QP {point['qp']}: {_chosen(point['matching'])}"
        for point in points if (point["matching"] or {}).get("trials")
    ]
    measured = {point["qp"] for point in points}
    if missing := [qp for qp in edition.qps if qp not in measured]:
        reasons.append(
            f"QP {', '.join(map(str, missing))} of the edition were not asked for: this is a "
            "verdict on the others alone"
        )
    if edition.time_limit is not None and all(
        point["time"]["status"] == NOT_MEASURED for point in points
    ):
        reasons.append("time was not measured: this is a verdict on rates and conformance alone")
    ratios = [point["time"]["ratio"] for point in points]
    return {
        "bd_rate": _means(sequences, "bd_rate"),
        "bd_rate_akima": _means(sequences, "bd_rate_akima"),
        "time_ratio": _geometric_mean(ratios),
        "worst_time_ratio": None if None in ratios else max(ratios),
        "status": status,
        "reasons": reasons + list(notes) + ([edition.note] if edition.note else []),
    }


def _means(sequences: Iterable[Mapping[str, Any]], key: str) -> dict[str, float | None]:
    """Mean by plane; None where a sequence has none."""
    means = {}
    for plane in _PLANES:
        values = [sequence[key][plane] for sequence in sequences]
        means[plane] = None if None in values or not values else math.fsum(values) / len(values)
    return means


def _geometric_mean(values: Iterable[float | None]) -> float | None:
    values = list(values)
    if not values or None in values or min(values) <= 0:
        return None
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def to_text(verdict: Mapping[str, Any]) -> str:
    """For reading: a line for each point, then sequences, and the verdict with its reasons."""

    def show(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    edition, overall = verdict["edition"], verdict["overall"]
    width = max(len(point["sequence"]) for point in verdict["points"])
    lines = [
        f"{edition['title']} ({edition['name']})",
        f"anchor  {verdict['anchor']['label']}",
        f"entry   {verdict['entry']['label']}",
        "",
        f"{'sequence':{width}}  QP      T  (95 %)         rate %  kbps      PSNR dB  time"
        "          rate          conformance",
    ]
    for point in verdict["points"]:
        time, entry = point["time"], point["entry"] or {}
        bounds = f"({show(time['low'], '.3f')}-{show(time['high'], '.3f')})"
        lines.append(
            f"{point['sequence']:{width}}  {point['qp']:2}  {show(time['ratio'], '.3f'):>5}  "
            f"{bounds:13}  {show(point['rate']['percent'], '.2f'):>6}  "
            f"{show(entry.get('kbps_without_sei'), '.2f'):8}  "
            f"{show((entry.get('psnr') or {}).get('weighted'), '.3f'):7}  {time['status']:12}  "
            f"{point['rate']['status']:12}  {point['conformance']['status']}"
        )
    lines.append("")
    for row in [*verdict["sequences"], {**overall, "sequence": "overall", "notes": []}]:
        bd, akima = row["bd_rate"], row["bd_rate_akima"]["weighted"]
        planes = ", ".join(f"{plane.upper()} {show(bd[plane], '+.2f')}" for plane in "yuv")
        lines.append(
            f"{row['sequence']:{width}}  BD-rate {show(bd['weighted'], '+.2f')} % ({planes}; akima "
            f"{show(akima, '+.2f')}), T {show(row['time_ratio'], '.3f')}"
        )
        lines += [f"{'':{width}}  {note}" for note in row["notes"]]
    lines += ["", f"verdict: {overall['status'].upper().replace('_', ' ')}"]
    lines += [f"  {reason}" for reason in overall["reasons"]]
    return "\n".join(lines) + "\n"

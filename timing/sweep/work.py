"""What a worker does: one task, from its cells' locks to their records."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastpart import __version__
from fastpart.backend import Vtm
from fastpart.bitstream import bitstream_bits
from fastpart.errors import FastpartError
from fastpart.media import Clip
from fastpart.record import encode_record, sha256_file
from fastpart.supervise import run_measured
from fastpart.timing.conformance import Decoders, check
from fastpart.timing.paired import conformance_record, psnr_of
from fastpart.timing.sweep.cell import ENCODE, JOIN, PROOF, SCHEMA, Cell
from fastpart.timing.sweep.segments import difference, join
from fastpart.timing.sweep.store import Store, StoreFull
from fastpart.vtm import RECON_BIT_DEPTH, EncodeResult, Picture, run_encoder

#: Room that a cell leaves on the file system, bytes.
SPARE_BYTES = 16 << 20

#: Between two notes of a worker's progress, seconds.
_NOTE_S = 0.5


@dataclass(frozen=True)
class Task:
    """Cells to do one after the other on one core: one, or a series whose times are compared.

    cores: CPUs to choose from; None: those that the worker may use. needs: keys of the cells that
    must be done before.
    """

    root: Path
    cells: tuple[Cell, ...]
    decoders: Decoders
    cores: tuple[int, ...] | None = None
    needs: tuple[str, ...] = ()

    @property
    def keys(self) -> list[str]:
        return [cell.key for cell in self.cells]

    def is_done(self, store: Store) -> bool:
        """Whether all records are there and, of a series, belong together."""
        records = [store.load(cell.key) for cell in self.cells]
        return None not in records and len({record["pairing"] for record in records}) == 1

    def __call__(self) -> None:
        """Do what is missing. A failure is noted in the store and raised."""
        if threading.current_thread() is threading.main_thread():
            # What `sweep cancel` sends; ignored by what a shell started in the background.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        store = Store(self.root)
        started = time.monotonic()
        # One lock for a series: its first cell's.
        with store.lock(self.cells[0].key):
            if self.is_done(store):
                return
            missing = [key for key in self.needs if store.load(key) is None]
            if missing:
                raise FastpartError(f"{store.path(missing[0], '.json')}: not there yet, wanted before")
            cores = self.cores or sorted(os.sched_getaffinity(0))
            with store.core(cores) as core:
                # This process and so its children: measuring and checking never leave the core.
                os.sched_setaffinity(0, {core})
                pairing = uuid.uuid4().hex if len(self.cells) > 1 else None
                for cell in self.cells:
                    _Worker(store, cell, self.decoders, core, pairing, started).run()

    def checkpoint(self, *_args, **_kwargs):
        """Preempted: start again (submitit's protocol)."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


@dataclass
class _Worker:
    """One cell under way."""

    store: Store
    cell: Cell
    decoders: Decoders
    core: int
    pairing: str | None
    started: float

    def run(self) -> None:
        key = self.cell.key
        with self.store.work(key) as work:
            log = work / f"{key}.log"
            try:
                self._require_room()
                with self.store.writing():
                    result = {ENCODE: self._encode, JOIN: self._join, PROOF: self._prove}[
                        self.cell.kind
                    ](work, log)
                    record = {
                        "schema": SCHEMA, "key": key, "kind": self.cell.kind,
                        "fastpart": __version__, "identity": self.cell.identity,
                        "sequence": self.cell.source.name, "encoder": self.cell.encoder,
                        "label": self.cell.backend.label, "pairing": self.pairing, **result,
                        "job": {
                            "host": socket.gethostname(), "core": self.core,
                            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
                            "seconds": time.monotonic() - self.started,
                        },
                    }
                self.store.commit(key, record, work)
            except StoreFull:
                raise
            except Exception as error:
                self._require_room()
                known = isinstance(error, FastpartError)
                self.store.fail(key, str(error) if known else traceback.format_exc(), log)
                raise

    def _require_room(self) -> None:
        clip = self.cell.source.part(self.cell.segment)
        # Reconstruction and two decoders' output at two bytes a sample.
        wanted = 9 * clip.width * clip.height * clip.frames + SPARE_BYTES
        free = shutil.disk_usage(self.store.root).free
        if free < wanted:
            raise StoreFull(
                f"{self.store.root}: {free / 1e6:.0f} MB free, wanted {wanted / 1e6:.0f} MB for "
                f"{self.cell.name}; make room, then fastpart sweep resume"
            )

    def _encode(self, work: Path, log: Path) -> dict[str, Any]:
        cell = self.cell
        cell.source.check()
        clip = cell.source.part(cell.segment)
        bitstream, recon = work / f"{cell.key}.266", work / "recon.yuv"
        result, started = self._run(clip, bitstream, recon, log, self._note(work, clip))
        encode = encode_record(
            result, variant=cell.backend.name, clip=clip, source=cell.source.path,
            cfg_files=getattr(cell.backend, "cfg_files", []), qp=cell.qp,
            intra_period=cell.source.intra_period, bitstream=bitstream,
            bitstream_name=self.store.path(cell.key, ".266"), started=started,
            model=getattr(cell.backend, "model", None),
        )
        return {
            **self._decode(clip, bitstream, work, recon if recon.exists() else None),
            **{name: encode[name] for name in ("bitstream", "kbps", "kbps_without_sei")},
            "times": {name: encode["times"][name] for name in ("user_s", "system_s", "wall_s")},
            "max_rss_kib": encode["max_rss_kib"],
            "encode": encode,
        }

    def _run(
        self, clip: Clip, bitstream: Path, recon: Path, log: Path,
        note: Callable[[Picture], None] | None,
    ) -> tuple[EncodeResult, datetime]:
        backend, period = self.cell.backend, self.cell.source.intra_period
        started = datetime.now(UTC)
        if isinstance(backend, Vtm):
            command = backend.command(clip, self.cell.qp, bitstream, intra_period=period, recon=recon)
            return run_encoder(command, log, note, self.core), started
        if backend.identity() != self.cell.backend_identity:
            raise FastpartError(f"{backend.label}: changed since the sweep began; resume it")
        command = backend.command(clip, self.cell.qp, bitstream, intra_period=period)
        usage = run_measured(command, log, core=self.core, cwd=bitstream.parent)
        return EncodeResult(tuple(command), log, self.core, usage), started

    def _note(self, work: Path, clip: Clip) -> Callable[[Picture], None]:
        """Writes down how far the encoder is, for the table of progress."""
        start, last, done = time.time(), 0.0, 0
        path = work / "progress.json"

        def note(_picture: Picture) -> None:
            nonlocal last, done
            done += 1
            if time.monotonic() - last > _NOTE_S:
                last = time.monotonic()
                data = {"pictures": done, "of": clip.frames, "started": start, "core": self.core}
                path.with_suffix(".part").write_text(json.dumps(data))
                path.with_suffix(".part").replace(path)

        return note

    def _decode(self, clip: Clip, bitstream: Path, work: Path, recon: Path | None) -> dict[str, Any]:
        """Conformance and PSNR. Raises FastpartError for a stream that does not conform: it may be
        damaged, and then another attempt helps."""
        decoded = Clip(work / "decoded.yuv", clip.width, clip.height, clip.fps, RECON_BIT_DEPTH,
                       clip.frames)
        found = check(
            bitstream, replace(decoded, path=recon or bitstream), self.decoders, decoded.path,
            work / "decoder.log", recon=recon is not None,
        )
        if not found.conforms:
            raise FastpartError("does not conform: " + "; ".join(found.problems))
        quality = psnr_of(clip, decoded)
        decoded.path.unlink(missing_ok=True)
        return {"psnr": quality, "conformance": conformance_record(found, self.decoders)}

    def _join(self, work: Path, log: Path) -> dict[str, Any]:
        cell = self.cell
        cell.source.check()
        out = work / f"{cell.key}.266"
        parts = [self.store.load(part.key) for part in cell.parts]
        join(cell.parcat, [self.store.path(part.key, ".266") for part in cell.parts], out)
        clip = cell.source.clip
        found = self._decode(clip, out, work, None)
        if found["conformance"]["pictures_ok"] != clip.frames:
            raise FastpartError(
                f"{found['conformance']['pictures_ok']} pictures of the joined stream have the hash "
                f"that was coded, wanted {clip.frames}; leave out segments"
            )
        bits = bitstream_bits(out)
        kbps_of_a_bit = float(clip.fps / clip.frames / 1000)
        return {
            **found,
            "bitstream": {"path": str(self.store.path(cell.key, ".266")), "sha256": sha256_file(out),
                          "bits": bits["total"], "sei_bits": bits["sei"]},
            "kbps": bits["total"] * kbps_of_a_bit,
            "kbps_without_sei": (bits["total"] - bits["sei"]) * kbps_of_a_bit,
            # Of the segments: each inner intra picture was coded twice.
            "times": {
                name: sum(part["times"][name] for part in parts)
                for name in ("user_s", "system_s", "wall_s")
            },
            "max_rss_kib": max(part["max_rss_kib"] for part in parts),
            "segments": [part.key for part in cell.parts],
            "encode": None,
        }

    def _prove(self, work: Path, log: Path) -> dict[str, Any]:
        """Whether whole run and joined segments are the same, on a small clip."""
        cell = self.cell
        clip = cell.source.clip
        streams = []
        for number, segment in enumerate([None, *(part.segment for part in cell.parts)]):
            streams.append(work / f"trial{number}.266")
            self._run(cell.source.part(segment), streams[-1], Path(os.devnull), log, None)
        joined = work / "joined.266"
        join(cell.parcat, streams[1:], joined)
        if found := difference(streams[0], joined):
            raise FastpartError(
                f"{cell.backend.label}: {clip.frames} pictures of {clip.width}x{clip.height} in whole "
                f"and in {len(streams) - 1} segments give streams of {found}. It carries something "
                "over intra pictures, so segments would change the result; leave out segments, or "
                "the option that does it"
            )
        return {"equal": True, "sha256": sha256_file(joined), "pictures": clip.frames}


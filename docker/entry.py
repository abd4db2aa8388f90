"""Entry point of the image: encodes all sequences of /in to /out at four QPs, on one thread.

    podman run --rm --read-only --network=none -v CLIPS:/in:ro -v RESULTS:/out IMAGE

Sequences are .yuv files whose names tell their format (Name_1920x1080_60.yuv) and .y4m files.
Each gives NAME_qpQP.266, its run record .266.json and the encoder's log .266.log; what is there
already is left alone, so that an interrupted run goes on. The environment variable QPS replaces
the QPs: "22 27 32 37".

With arguments it is one encode instead: those of VTM's EncoderApp, as `fastpart verify --image`
gives them, or `encode` and those of `fastpart encode`.

/vtm/scheme.json says with what: preset, a name or null; points: by sequence (the file's name
without its end) and QP asked for, qp and further VTM options. `encode` with a --preset of its own
has that instead.
"""

import argparse
import json
import os
import sys
from pathlib import Path

QPS = "22 27 32 37"
SUFFIXES = (".yuv", ".y4m")
ENCODER = "/vtm/23.2/patched/EncoderApp"
CFG = "/vtm/23.2/cfg/encoder_randomaccess_vtm.cfg"
PRESETS = "/usr/lib/fastpart/fastpart/presets"
MODEL = Path("/vtm/model.fpm")
SCHEME = Path("/vtm/scheme.json")


def main(arguments: list[str]) -> int:
    # Whatever is started stays on this CPU.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if arguments and arguments[0].startswith("-"):
        os.execv(ENCODER, vtm_command(json.loads(SCHEME.read_text()), arguments))
    if arguments and arguments[0] != "encode":
        print(__doc__, file=sys.stderr)
        return 2
    if arguments:
        return encode(arguments[1:])
    return encode_all(Path("/in"), Path("/out"), os.environ.get("QPS", QPS).split())


def vtm_command(scheme: dict, arguments: list[str]) -> list[str]:
    """The encoder's command for arguments of VTM's own."""
    model = [f"--FastPartModel={MODEL}"] if MODEL.exists() else []
    preset = ["-c", f"{PRESETS}/{scheme['preset']}.cfg"] if scheme["preset"] else ["--FastPart=1"]
    given = dict(zip(arguments, arguments[1:], strict=False))
    point = chosen(scheme, given.get("-i", ""), given.get("-q", ""))
    more = [f"--QP={point['qp']}", *(f"--{name}={value}" for name, value in point["options"].items())] if point else []
    return [ENCODER, "-c", CFG, *preset, "-o", os.devnull, "--InputChromaFormat=420", "--OutputBitDepth=10",
            *model, *arguments, *more]


def chosen(scheme: dict, clip: str, qp: str) -> dict | None:
    """What the scheme encodes a clip with at a QP, if it names the two."""
    return scheme["points"].get(Path(clip).stem, {}).get(qp)


def encode_all(source: Path, out: Path, qps: list[str]) -> int:
    """Encode every sequence at every QP; returns 0, or 1 if any failed."""
    clips = sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES)
    if not clips:
        print(f"{source}: no {' or '.join(SUFFIXES)} files, wanted sequences", file=sys.stderr)
        return 1
    failed = 0
    for clip in clips:
        for qp in qps:
            stream = out / f"{clip.stem}_qp{qp}.266"
            if stream.with_name(stream.name + ".json").exists():
                continue
            # --force: a stream without its record is not finished.
            failed += encode([str(clip), "-o", str(stream), "--qp", qp, "--force"]) != 0
    return 1 if failed else 0


def encode(arguments: list[str]) -> int:
    """`fastpart encode` with these arguments."""
    from fastpart import encode as command
    from fastpart.errors import FastpartError

    parser = argparse.ArgumentParser(prog="fastpart")
    command.add_commands(parser.add_subparsers())
    model = ["--model", str(MODEL)] if MODEL.exists() else []
    try:
        args = parser.parse_args(["encode", *arguments, *model])
        if args.preset is None:
            follow(json.loads(SCHEME.read_text()), args)
        return args.run(args)
    except FastpartError as error:
        print(f"fastpart encode: {error}", file=sys.stderr)
        return 1


def follow(scheme: dict, args: argparse.Namespace) -> None:
    """Encode as the scheme says, where the arguments do not say themselves."""
    args.preset = scheme["preset"]
    if point := chosen(scheme, args.input or "", str(args.qp)):
        options = dict(point["options"])
        target = options.pop("FastPartTargetRatio", None)
        args.qp = point["qp"]
        if args.kappa is None and args.target_ratio is None:
            args.target_ratio = target
        args.option = [*(f"{name}={value}" for name, value in options.items()), *args.option]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The subcommands of `fastpart train`."""

from __future__ import annotations

import argparse
import json
import os
from importlib.resources import files
from pathlib import Path

from fastpart.arguments import numbers, positive_numbers
from fastpart.errors import FastpartError
from fastpart.files import write_bytes_atomic
from fastpart.modelfile import DEFAULT_MODEL
from fastpart.training.recipe import DEFAULT_RECIPE, load_recipe
from fastpart.vtm import VtmHome

VVENC_RECIPE = files("fastpart.training") / "recipes" / "vvenc.toml"


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    train = subparsers.add_parser(
        "train", help="collect traces with the patched encoder and fit a model",
        description="Collect traces, then fit a model; both resume where they were stopped.",
    )
    actions = train.add_subparsers(dest="action", metavar="ACTION", required=True)

    recipe = actions.add_parser(
        "recipe", help="a recipe that takes cuts of all clips of a folder, and its data sheet",
        description="Take cuts of all clips below CLIPS/train (ours, UVG, CDVL) and write a recipe and, beside it, a "
        "data sheet (.tsv) with source, licence and frames used.",
    )
    recipe.add_argument("--clips", type=Path, required=True, help="folder that holds train/")
    recipe.add_argument("--out", type=Path, required=True, metavar="RECIPE.toml", help="recipe to write")
    recipe.add_argument("--seed", type=int, default=1, help="of the choice of pictures (default: 1)")
    recipe.add_argument("--qps", type=numbers, default=[17, 22, 27, 32, 37, 42], metavar="QP,...",
                        help="taken in turn (default: 17,22,27,32,37,42)")
    recipe.set_defaults(run=run_recipe)

    train_all = actions.add_parser("run", help="from clips to a model: every round, the fit and the steering")
    _add_encoding(train_all, "folder for cuts, traces and records")
    train_all.add_argument("--model", type=Path, required=True, help="model file to write")
    train_all.set_defaults(run=run_train)

    collect = actions.add_parser("collect", help="encode a round of the recipe and keep its traces")
    collect.add_argument("round", help="name of a round in the recipe")
    _add_encoding(collect, "folder for cuts and traces")
    collect.add_argument("--model", type=Path, help="model of a policy round (default: compiled in)")
    collect.add_argument("--kappa", type=float, default=1.0)
    collect.add_argument("--limit", type=int, help="only the first cells of the round")
    collect.set_defaults(run=run_collect)

    fit = actions.add_parser("fit", help="fit a model to the traces of the rounds")
    fit.add_argument("rounds", nargs="+", help="rounds whose traces to use")
    fit.add_argument("--recipe", type=Path, default=DEFAULT_RECIPE)
    fit.add_argument("--out", type=Path, required=True, help="the folder given to collect")
    fit.add_argument("--model", type=Path, required=True, help="model file to write")
    fit.add_argument("--report", type=Path, help="fit report to write (default: MODEL.json)")
    fit.set_defaults(run=run_fit)

    steer = actions.add_parser("steer", help="measure what FastPartTargetRatio needs and add it to a model")
    _add_encoding(steer, "folder for cuts and records")
    steer.add_argument("--model", type=Path, required=True, help="model file to start from")
    steer.add_argument("--new-model", type=Path, required=True, help="model file to write")
    steer.set_defaults(run=run_steer)

    simulate = actions.add_parser(
        "simulate", help="T and loss of a model's policy at several kappas, from traces of the full search",
        description="Encode the cells of a round of the recipe once without skips, and say from the traces what T and "
        "loss the policy would have at each kappa.",
    )
    simulate.add_argument("round", help="name of a round in the recipe")
    _add_encoding(simulate, "folder for cuts, traces and records")
    simulate.add_argument("--model", type=Path, default=DEFAULT_MODEL, help="model file (default: the committed one)")
    simulate.add_argument("--kappas", type=positive_numbers, default=[0.25, 0.5, 1.0, 2.0], metavar="K,...",
                          help="default: 0.25,0.5,1,2")
    simulate.add_argument("--limit", type=int, help="only the first cells of the round")
    simulate.add_argument("--measure", action="store_true", help="encode at each kappa too, and compare")
    simulate.set_defaults(run=run_simulate)

    vvenc = actions.add_parser(
        "vvenc", help="learn partition depths for libvvenc: encode, fit, and measure",
        description="Encode what the recipe of the libvvenc demo wants and has no record yet, fit "
        "the model, and with --test measure it on clips that took no part in the fit.",
    )
    _add_folders(vvenc, VVENC_RECIPE, "folder for cuts and records")
    vvenc.add_argument("--model", type=Path, required=True, help="model file to write")
    vvenc.add_argument("--core", type=int, help="pin the encoders to this CPU")
    vvenc.add_argument("--limit", type=int, help="make at most so many records, then stop")
    vvenc.add_argument("--test", action="store_true",
                       help="measure the model as it is on the test cuts instead")
    vvenc.set_defaults(run=run_vvenc)


def _add_folders(parser: argparse.ArgumentParser, recipe, out: str) -> None:
    """What an action needs that works on clips; out: what is kept there."""
    parser.add_argument("--recipe", type=Path, default=recipe)
    parser.add_argument("--clips", type=Path, required=True, help="folder that holds train/")
    parser.add_argument("--out", type=Path, required=True, help=out)


def _add_encoding(parser: argparse.ArgumentParser, out: str) -> None:
    """What an action needs that runs the patched encoder."""
    _add_folders(parser, DEFAULT_RECIPE, out)
    parser.add_argument("--jobs", type=int, help="encodes side by side (default: all cores)")
    parser.add_argument("--vtm-home", type=Path)


def _cores(args: argparse.Namespace) -> list[int]:
    return sorted(os.sched_getaffinity(0))[: args.jobs]


def run_steer(args: argparse.Namespace) -> int:
    from fastpart.training.steer import steer

    report = steer(
        load_recipe(args.recipe), args.clips, args.out, VtmHome.find(args.vtm_home), args.model,
        args.new_model, _cores(args),
    )
    print(f"{args.new_model}: error of the estimated ratio on clips left out, rms "
          f"{report['left_out_error_rms']:.3f}")
    return 0


def run_simulate(args: argparse.Namespace) -> int:
    from fastpart.training.simulate import study, to_markdown

    found = study(
        load_recipe(args.recipe).round(args.round), args.clips, args.out, VtmHome.find(args.vtm_home), args.model,
        args.kappas, _cores(args), limit=args.limit, measured=args.measure,
    )
    print(to_markdown(found), end="")
    return 0


def run_collect(args: argparse.Namespace) -> int:
    from fastpart.training.collect import collect

    recipe = load_recipe(args.recipe)
    paths = collect(
        recipe.round(args.round), args.clips, args.out, VtmHome.find(args.vtm_home),
        model=args.model, kappa=args.kappa, cores=_cores(args), limit=args.limit,
    )
    print(f"{len(paths)} traces in {args.out / args.round}")
    return 0


def run_fit(args: argparse.Namespace) -> int:
    from fastpart.training.rounds import fit_rounds

    report = args.report or args.model.with_suffix(".json")
    fit_rounds(load_recipe(args.recipe), args.rounds, args.out, args.model, report)
    print(f"{args.model}, {report}")
    return 0


def run_recipe(args: argparse.Namespace) -> int:
    from fastpart.training import clips

    sheet = args.out.with_suffix(".tsv")
    if sheet == args.out:
        raise FastpartError(f"{args.out}: is also the name of the data sheet, wanted RECIPE.toml")
    cuts = clips.choose_cuts(clips.find_sources(args.clips), args.seed)
    write_bytes_atomic(args.out, clips.recipe_text(cuts, args.qps, args.seed).encode())
    write_bytes_atomic(sheet, clips.data_sheet(cuts).encode())
    recipe = load_recipe(args.out)
    print(f"{args.out}: {len(recipe.cuts)} cuts, {len(recipe.steering_cells)} for the steering; {sheet}")
    return 0


def run_train(args: argparse.Namespace) -> int:
    from fastpart.training.rounds import train

    train(load_recipe(args.recipe), args.clips, args.out, VtmHome.find(args.vtm_home), args.model, _cores(args))
    print(f"{args.model}, {args.model.with_suffix('.json')}; next: fastpart encode --model {args.model}")
    return 0


def run_vvenc(args: argparse.Namespace) -> int:
    from fastpart.training import vvenc

    recipe = vvenc.load_recipe(args.recipe)
    args.out.mkdir(parents=True, exist_ok=True)
    records = args.out / ("test.tsv" if args.test else "train.tsv")
    if args.test:
        cells, argv = vvenc.test_cells(recipe), vvenc.test_argv(recipe, args.model)
    else:
        cells, argv = vvenc.designs(recipe), vvenc.training_argv()
    missing = vvenc.collect(
        cells, records, args.clips, args.out, argv, core=args.core, limit=args.limit
    )
    if missing:
        print(f"{records}: {missing} of {len(cells)} records are missing; start again to go on")
    elif args.test:
        print(vvenc.table(vvenc.read_records(records)), end="")
    else:
        model = vvenc.fit(recipe, records, args.model)
        print(json.dumps(model["training"]["cross_validation"], indent=1))
        print(f"{args.model}")
    return 0

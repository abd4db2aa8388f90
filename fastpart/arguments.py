"""Lists on the command line."""

from __future__ import annotations

import argparse


def names(text: str) -> list[str]:
    """`a,b` as its words."""
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str) -> list[int]:
    """`0,1` as its numbers. Raises argparse.ArgumentTypeError for another text."""
    try:
        return [int(word) for word in names(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: wanted numbers such as 0,1") from None


def positive_numbers(text: str) -> list[float]:
    """`0.5,1` as its numbers, all above 0. Raises argparse.ArgumentTypeError for another text."""
    try:
        found = [float(word) for word in names(text)]
    except ValueError:
        found = []
    if not found or not all(0 < number < float("inf") for number in found):
        raise argparse.ArgumentTypeError(f"{text!r}: wanted numbers above 0 such as 0.5,1")
    return found

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

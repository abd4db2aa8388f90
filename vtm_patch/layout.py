"""Where the files that fastpart adds lie in a VTM tree."""

from __future__ import annotations

from pathlib import PurePosixPath

ENCODER_LIB = "source/Lib/EncoderLib"
#: Its time stamp tells the build that sources came or went.
BUILD_FILE = f"{ENCODER_LIB}/CMakeLists.txt"
VERSION_FILE = "source/Lib/CommonLib/version.h"
FOLDER = f"{ENCODER_LIB}/fastpart"
ENGINE = f"{FOLDER}/engine"
RECORD = f"{FOLDER}/APPLIED.json"


def is_added(path: str) -> bool:
    """Whether this path, relative to the tree, is one that fastpart adds or could add."""
    pure = PurePosixPath(path)
    if pure.is_relative_to(FOLDER):
        return True
    return (
        str(pure.parent) == ENCODER_LIB
        and pure.name.startswith("Fastpart")
        and pure.suffix in (".h", ".cpp")
    )

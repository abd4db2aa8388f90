"""`APPLIED.json`: what fastpart did to a VTM tree, kept in the tree.

It holds the patch set itself, so that any later fastpart can take the insertions out again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from fastpart.errors import FastpartError
from fastpart.vtm_patch.patchset import PatchSet


@dataclass(frozen=True)
class Record:
    """`complete` is false while files are being replaced.

    added: digests that each added file may have, by path; one each when complete.
    patch_sets: those whose insertions may be in the touched files; one when complete.
    """

    complete: bool
    fastpart: str
    model: dict[str, Any] | None
    added: dict[str, tuple[str, ...]]
    patch_sets: tuple[PatchSet, ...]

    def to_bytes(self) -> bytes:
        content = {
            "complete": self.complete,
            "fastpart": self.fastpart,
            "model": self.model,
            "added": self.added,
            "patch_sets": [
                {"manifest": item.manifest(), "insertions": item.insertions().decode()}
                for item in self.patch_sets
            ],
        }
        return json.dumps(content, indent=2).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Record:
        """Raises FastpartError, naming `where`, if this is not a whole record."""
        try:
            content = json.loads(data)
            return cls(
                bool(content["complete"]),
                str(content["fastpart"]),
                content["model"],
                {path: tuple(digests) for path, digests in content["added"].items()},
                tuple(
                    PatchSet.from_parts(item["manifest"], item["insertions"].encode(), where)
                    for item in content["patch_sets"]
                ),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FastpartError(
                f"{where}: {type(error).__name__} {error}, wanted the record that fastpart wrote; "
                "move it away, then run: fastpart patch revert"
            ) from error

"""Paths that orbax can use whatever the name of the run."""

import fnmatch
from collections.abc import Iterator

from etils import epath


class LiteralPath(epath.gpath.PosixGPath):
    """A path whose `glob` takes the pattern alone as a pattern, not the path itself.

    Orbax lists files with `directory.glob(...)`. Its own paths would take [ ] * ? in the directory
    for a pattern, too: the checkpoints of a run called run[lr=0.001] would lack their arrays.
    """

    def glob(self, pattern: str) -> Iterator["LiteralPath"]:
        folder, _, name = pattern.rpartition("/")
        directory = self / folder
        paths = directory.iterdir() if directory.is_dir() else ()
        return (path for path in paths if fnmatch.fnmatchcase(path.name, name))

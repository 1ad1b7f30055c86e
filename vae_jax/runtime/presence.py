"""Notices that the directory of a run is moved or removed while the run uses it."""

import pathlib

from vae_jax.errors import UserError


class WorkdirLostError(UserError, RuntimeError):
    """The workdir of a run was moved or removed."""


class Presence:
    """Checks that a directory is still the one that it was, and still has a file.

    Without this check a run would go on in a new directory of the same name, without what it had
    written before.

    Args:
      directory: an existing directory.
      file: name of a file in it.
    """

    def __init__(self, directory: pathlib.Path, file: str) -> None:
        self._directory, self._file = directory, file
        self._number = self._look()

    def check(self) -> None:
        """Raises a WorkdirLostError if the directory or the file is gone, or another one."""
        if self._number is None or self._look() != self._number:
            raise WorkdirLostError(
                f"{self._directory} was moved or removed while the run was using it, or its "
                f"{self._file} was: what was trained since the last checkpoint is lost. Move it "
                "back and run the same command again."
            )

    def _look(self) -> tuple[int, int] | None:
        if not (self._directory / self._file).exists():
            return None
        status = self._directory.stat()
        return status.st_dev, status.st_ino

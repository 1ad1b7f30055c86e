"""Files that name the process to which something belongs, for file systems without locks."""

import contextlib
import dataclasses
import os
import pathlib
import socket

from vae_jax import files
from vae_jax.errors import InputError, NotFoundError


@dataclasses.dataclass(frozen=True)
class Owner:
    """A process.

    Attributes:
      host: name of its machine.
      process_id: its number there.
      started: when it started, in ticks of the machine's clock, because numbers are used again;
        empty if it does not run, or if the system has no /proc.
    """

    host: str
    process_id: int
    started: str

    @classmethod
    def of_process(cls, process_id: int) -> "Owner":
        """Describes the process of a number on this machine."""
        started = ""
        with contextlib.suppress(OSError):
            text = pathlib.Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8")
            # The second field is the name of the program in brackets, which may have spaces.
            started = text.rpartition(")")[2].split()[19]
        return cls(socket.gethostname(), process_id, started)

    def has_ended(self) -> bool:
        """Returns whether it is known that the process no longer runs."""
        return self.host == socket.gethostname() and self != Owner.of_process(self.process_id)

    def __str__(self) -> str:
        return f"Process {self.process_id} on {self.host}"


def claim(path: pathlib.Path) -> Owner | str | None:
    """Makes a file that names this process, unless there is one of a process that still runs.

    Returns:
      None if the file is now this process's own, otherwise what is known about its owner.

    Raises:
      InputError: `path` is a symbolic link that leads nowhere.
    """
    content = files.to_json(dataclasses.asdict(Owner.of_process(os.getpid())))
    while True:
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(content)
            return None
        except FileExistsError:
            pass
        try:
            found = files.read_text(path)
            owner = Owner(**files.parse_json(found))
        except NotFoundError as error:
            if path.is_symlink():
                raise InputError(f"{path} is a symbolic link: remove it.") from error
            continue  # it has just been removed
        except (InputError, ValueError, TypeError):
            return "Another process"  # which has not written its name yet, or was killed before
        if not owner.has_ended():
            return owner
        _remove(path, found)


def _remove(path: pathlib.Path, content: str) -> None:
    """Removes a file unless another process has replaced it since `content` was read."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        if aside.read_text(encoding="utf-8") == content:
            aside.unlink()
        else:
            aside.rename(path)

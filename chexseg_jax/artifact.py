"""The store of artifacts: each is the output of one stage, in a folder named by a hash of the stage's inputs."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from chexseg_jax.errors import DamagedError, disk_errors, first_line
from chexseg_jax.files import Lock, checksums, damaged, remove_asides
from chexseg_jax.processes import on_first, wait_for_all
from chexseg_jax.progress import say

#: Training checkpoints, three quarters of an artifact's bytes; deleted once the stage has finished.
_CHECKPOINTS = "checkpoints"
_CARD = "artifact.json"
#: Files of records (`data.records`) have checksums of their own.
_RECORDS = "*.array_record"
_PACKAGES = ("chexseg-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@dataclass(frozen=True)
class Store:
    """A folder of artifacts.

    Attributes:
      folder: of all artifacts.
      planned: of a store for planning, the artifacts that `make` has named, in order: folder -> (stage, inputs). It
        computes none of them, to learn what a run needs.
    """

    folder: Path
    planned: dict[Path, tuple[str, Mapping[str, Any]]] | None = None

    @property
    def planning(self) -> bool:
        """Whether `make` only names artifacts."""
        return self.planned is not None

    def plan(self) -> "Store":
        """The same store for planning."""
        return replace(self, planned={})

    def make(
        self,
        name: str,
        stage: Callable[..., None],
        *,
        version: int = 1,
        collective: bool = False,
        apart: Mapping[str, Any] | None = None,
        **inputs: Any,
    ) -> Path:
        """Return the finished artifact of a stage, reused or computed by `stage(part, **inputs, **apart)`.

        The hash of `inputs` names the artifact: a path counts by its name, an array by its digest, an object with a
        `fingerprint` by that. `stage` works in the folder `part`, `NAME-HASH.part`, which is renamed when it returns,
        so a folder without that ending is complete. A killed stage leaves `.part` behind, and training resumes from its
        checkpoints.

        If several runs need the same artifact at once, on one machine or on several with a common file system, one
        makes it under a file lock and the others wait.

        Args:
          name: the first part of the folder's name.
          stage: a plain function of the folder and its inputs.
          version: raised when the stage's code changes the result of the same inputs.
          collective: whether all processes work on it, as in a training. Otherwise the first process makes it on its
            own devices while the others wait.
          apart: arguments that do not change the result, such as what to profile.
          **inputs: everything that determines the result.

        Returns:
          The folder. Its `artifact.json` holds the inputs, the time taken, the package versions and checksums.

        Raises:
          DamagedError: naming a file of a finished artifact that is missing or has other content.
        """
        key = plain(inputs) | ({"version": version} if version > 1 else {})
        directory = self.folder / f"{name}-{config_digest(key)}"
        if self.planned is not None:
            self.planned[directory] = name, inputs
            return directory

        def work(part: Path) -> None:
            with disk_errors(part):
                stage(part, **inputs, **(apart or {}))

        lock = Lock(self.folder / ".locks" / directory.name)
        try:
            if on_first(_found, directory, lock):
                say(f"{name}: reusing {directory.name}")
            else:
                _make(directory, name, key, work, collective)
        finally:
            lock.release()
        return directory


def _found(directory: Path, lock: Lock) -> bool:
    """Whether the artifact exists; if not, this process holds `lock` on return and has to make it."""
    if directory.exists():
        verify(directory)
        # A process that was killed as it ended has left them.
        shutil.rmtree(directory / _CHECKPOINTS, ignore_errors=True)
        return True
    if not lock.acquire():
        say(
            f"another run is making {directory.name}; waiting for it (if no such run exists any more, delete "
            f"{lock.path})"
        )
        lock.wait()
    # A network file system may cache for a minute that a name does not exist; listing the folder asks again.
    return directory.name in os.listdir(directory.parent)


def _make(
    directory: Path, name: str, key: Mapping[str, Any], work: Callable[[Path], None], collective: bool
) -> None:
    part = directory.with_name(f"{directory.name}.part")
    on_first(part.mkdir, parents=True, exist_ok=True)
    say(f"{name}: making {directory.name}")
    start = time.monotonic()
    if collective:
        work(part)
        wait_for_all(directory.name)
    else:
        on_first(work, part)
    seconds = time.monotonic() - start
    card = {"stage": name, "key": key, "seconds": round(seconds, 1), "versions": versions()}

    def finish() -> None:
        remove_asides(part)  # of processes that were killed
        files = checksums(part, leave_out=(_CHECKPOINTS, _RECORDS))
        (part / _CARD).write_text(json.dumps(card | {"files": files}, indent=1))
        os.replace(part, directory)
        shutil.rmtree(directory / _CHECKPOINTS, ignore_errors=True)

    on_first(finish)
    say(f"{name}: done in {seconds:.1f} s")


@cache
def verify(directory: Path) -> None:
    """Compare a finished artifact's files with their checksums, once a process. Earlier versions have none.

    Raises:
      DamagedError: naming the first file that is missing or has other content.
    """
    if (name := damaged(directory, read_record(directory).get("files", {}))) is not None:
        raise DamagedError(f"{directory / name}: missing, or not what was written; {_fix(directory)}")


def read_record(directory: Path) -> dict[str, Any]:
    """The record of a finished artifact: its stage, key, seconds, versions and the checksums of its files.

    Raises:
      DamagedError: if it cannot be read.
    """
    card = directory / _CARD
    try:
        return dict(json.loads(card.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DamagedError(f"{card}: truncated or corrupt ({first_line(error)}); {_fix(directory)}") from None


def _fix(directory: Path) -> str:
    return f"delete {directory} and rerun the command, which recomputes it"


def config_digest(config: Mapping[str, Any] | ConfigDict) -> str:
    """Twelve hexadecimal digits that change with any value of the configuration."""
    return hashlib.sha256(json.dumps(plain(config), sort_keys=True).encode()).hexdigest()[:12]


def plain(value: Any) -> Any:
    """A value as JSON has it: artifacts by name, arrays by digest, an object with a `fingerprint` by that.

    Raises:
      TypeError: for any other object.
    """
    match value:
        case ConfigDict() | Mapping():
            return {str(k): plain(v) for k, v in value.items()}
        case list() | tuple():
            return [plain(v) for v in value]
        case Path():
            return value.name
        case np.ndarray():
            return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:12]
        case None | bool() | int() | float() | str():
            return value
        case _ if hasattr(value, "fingerprint"):
            return value.fingerprint
    raise TypeError(f"{type(value).__name__} cannot be part of an artifact's key")


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    return {package: metadata.version(package) for package in _PACKAGES}

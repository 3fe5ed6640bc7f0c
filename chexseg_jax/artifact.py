"""Artifacts: what a stage makes, in a folder named by a hash of all that determined it."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from ml_collections import ConfigDict

from chexseg_jax.processes import on_first, wait_for_all
from chexseg_jax.progress import say

#: Raise a stage's version (of all whose name begins so; 1 where it is not listed) with a change of the code that
#: changes what it makes of the same key: what older code made is then no longer found.
VERSIONS = {"probe": 2, "pseudo-masks": 3, "irnet": 3, "walks": 2}
#: What a training goes on from: of no use once its stage is whole, and three quarters of its bytes.
_CHECKPOINTS = "checkpoints"
_PACKAGES = ("chexseg-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def artifact(
    store: Path,
    stage: str,
    key: Mapping[str, Any],
    make: Callable[[Path], None],
    *,
    collective: bool = False,
) -> Path:
    """The finished artifact of a stage: found, or made by `make`.

    Of several runs that want the same artifact at once, on one machine or on several with a common file system, one
    makes it and the others wait: who makes it holds a file lock, which falls with its process where the file system
    has locks (flock).

    `make` works in `<name>.part`, which is renamed when it returns; a folder without that ending is therefore
    whole. What a kill leaves in `.part` is there when the stage runs again, so a training goes on from its
    checkpoints.

    Args:
      store: the folder of all artifacts.
      stage: the first part of the folder's name.
      key: all that determines the result: the stage's configuration and its inputs' names. JSON values.
      make: writes the artifact into the (existing) folder it is given.
      collective: whether `make` is the work of all processes, as a training is. Else the first one makes it, on its
        own devices, and the others wait.

    Returns:
      The folder; its `artifact.json` holds the key, the time taken and the versions used.
    """
    key = plain(key)
    if version := next((number for name, number in VERSIONS.items() if stage.startswith(name)), None):
        key["version"] = version
    directory = store / f"{stage}-{config_digest(key)}"
    lock = FileLock(store / ".locks" / directory.name)
    try:
        if on_first(_found, directory, lock):
            say(f"{stage}: found {directory.name}")
            return directory
        return _make(directory, stage, key, make, collective)
    finally:
        lock.release()


def _found(directory: Path, lock: FileLock) -> bool:
    """Whether the artifact is there; if it is not, `lock` is ours on return, and so is the making."""
    if directory.exists():
        return True
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say(
            f"another run is making {directory.name}; waiting for it (should there be none any more, delete "
            f"{lock.lock_file})"
        )
        lock.acquire()
    # A network's file system may remember for a minute that a name was not there; it looks again for a listing.
    return directory.name in os.listdir(directory.parent)


def _make(
    directory: Path, stage: str, key: Mapping[str, Any], make: Callable[[Path], None], collective: bool
) -> Path:
    part = directory.with_name(f"{directory.name}.part")
    on_first(part.mkdir, parents=True, exist_ok=True)
    say(f"{stage}: making {directory.name}")
    start = time.monotonic()
    if collective:
        make(part)
        wait_for_all(directory.name)
    else:
        on_first(make, part)
    seconds = time.monotonic() - start
    card = {"stage": stage, "key": key, "seconds": round(seconds, 1), "versions": versions()}

    def finish() -> None:
        (part / "artifact.json").write_text(json.dumps(card, indent=1))
        os.replace(part, directory)
        shutil.rmtree(directory / _CHECKPOINTS, ignore_errors=True)

    on_first(finish)
    say(f"{stage}: done in {seconds:.1f} s")
    return directory


def config_digest(config: Mapping[str, Any] | ConfigDict) -> str:
    """Twelve hexadecimal digits that change with any value of the configuration."""
    return hashlib.sha256(json.dumps(plain(config), sort_keys=True).encode()).hexdigest()[:12]


def plain(value: Any) -> Any:
    """ConfigDicts, tuples and paths as JSON knows them."""
    match value:
        case ConfigDict() | Mapping():
            return {str(k): plain(v) for k, v in value.items()}
        case list() | tuple():
            return [plain(v) for v in value]
        case Path():
            return str(value)
        case _:
            return value


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    return {package: metadata.version(package) for package in _PACKAGES}

"""Kill predictions at random moments, rerun them, and compare with one that was left alone.

    python tests/faults/kill_predict.py --kills 50 > benchmarks/results/predict_kills.md    # 40 images

A call is killed (SIGKILL) up to 30 ms after it has finished up to a fifth of the images, or while it writes the tables.
The same command then goes on in the same folder, until one call ends by itself: each file must then have the bytes of
the uninterrupted call. This is repeated in new folders until there are enough kills.
"""

import argparse
import importlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
from kill import ROOT, forked
from PIL import Image


def main() -> None:
    """Print the figures; exit with 1 if something differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="number of kills")
    parser.add_argument("--images", type=int, default=40, help="number of images")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    options = parser.parse_args()
    sys.path += [str(ROOT), str(ROOT / "tests")]
    importlib.import_module("chexseg_jax.predict.__main__")  # once: each start is a fork

    rng = random.Random(options.seed)
    kills, late, folders = 0, 0, 0
    differences: list[str] = []
    with tempfile.TemporaryDirectory(prefix="chexseg-kill-") as folder:
        scratch = Path(folder)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{scratch}/xla_cache")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        forked(make_inputs, scratch, options.images)()
        end(start(scratch, "whole"), scratch)
        while kills < options.kills:
            out, folders = scratch / f"cut{folders}", folders + 1
            while kills < options.kills and killed(scratch, out, options.images, rng):
                kills, late = kills + 1, late + (finished(out) == options.images)
                print(f"kill {kills}: {finished(out)} images finished", file=sys.stderr, flush=True)
            end(start(scratch, out.name), scratch)  # of a finished call, it changes nothing
            differences += compare(scratch / "whole", out)
    print(
        f"# {kills} kills of a prediction\n\n{date.today()}, seed {options.seed}: {options.images} images.\n"
    )
    print(
        f"Kills {kills}, of them {late} after the last image; folders {folders}; differences {len(differences)}."
    )
    for difference in differences:
        print(f"- {difference}")
    sys.exit(bool(differences))


def make_inputs(scratch: Path, images: int) -> None:
    """Write a small model and images of several sizes."""
    from tiny import save_random

    from chexseg_jax.data.taxonomy import CHEXPERT

    save_random(scratch / "model", CHEXPERT)
    (scratch / "in").mkdir()
    rng = np.random.default_rng(0)
    for number in range(images):
        shape = rng.integers(200, 400, 2)
        small = Image.fromarray(rng.integers(0, 256, (6, 5), dtype=np.uint8))
        small.resize(tuple(shape.tolist()), Image.Resampling.BICUBIC).save(scratch / f"in/{number:03}.png")


def start(scratch: Path, out: str) -> int:
    """Start the command in a session of its own; return its process id."""
    if child := os.fork():
        return child
    os.setsid()
    os.dup2(os.open(scratch / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    from tiny import Tiny

    from chexseg_jax.errors import run_command
    from chexseg_jax.models.zoo import ENCODERS
    from chexseg_jax.predict.__main__ import main as predict

    ENCODERS["tiny"] = Tiny
    save = ("--save", "json,csv,overlays,masks,maps")
    flags = ("-m", str(scratch / "model"), "-o", str(scratch / out), *save, str(scratch / "in"))
    code: object = 1
    try:
        run_command(lambda: predict(flags))
        code = 0
    except SystemExit as exit:
        code = exit.code
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def end(child: int, scratch: Path) -> None:
    """Wait for a call that nothing kills."""
    if os.waitpid(child, 0)[1]:
        sys.exit((scratch / "log.txt").read_text()[-3000:])


def finished(out: Path) -> int:
    """The number of finished images."""
    return len(list(out.glob(".predict/finished/*.json")))


def killed(scratch: Path, out: Path, images: int, rng: random.Random) -> bool:
    """Start a call and kill it; return False if it ended before, as one does that has no image left."""
    child = start(scratch, out.name)
    there = finished(out)
    target = min(images, there + rng.randint(1, max(1, images // 5))) if there < images else images + 1
    moment = None
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status:
                sys.exit((scratch / "log.txt").read_text()[-3000:])
            return False
        if moment is None and finished(out) >= target:
            moment = time.monotonic() + rng.uniform(0, 0.03)
        if moment is not None and time.monotonic() >= moment:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return True
        time.sleep(0.001)


def compare(whole: Path, cut: Path) -> Sequence[str]:
    """The files of two folders that are not equal."""
    names = {str(path.relative_to(at)) for at in (whole, cut) for path in at.rglob("*") if path.is_file()}

    def content(at: Path, name: str) -> bytes | None:
        return (at / name).read_bytes() if (at / name).is_file() else None

    return [f"{cut.name}/{name}" for name in sorted(names) if content(whole, name) != content(cut, name)]


if __name__ == "__main__":
    main()

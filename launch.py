"""Runs one configuration: `python launch.py --config=configs/semi.py:p=0.9 [--workdir=DIR] [--config.x.y=v]`."""

from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from chexseg_jax import experiment
from chexseg_jax.errors import InputError, run_command

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="configs/NAME.py:key=value,...; a wrong key lists the known ones."
)
_WORKDIR = flags.DEFINE_string("workdir", "work", "Folder of artifacts and reports; a run goes on in it.")
flags.mark_flag_as_required("config")


def main(_: list[str]) -> None:
    """Turns on the compilation cache and hands over."""
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every thread it starts
    workdir = Path(_WORKDIR.value)
    jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "xla_cache"))
    experiment.run(_CONFIG.value, workdir)


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except (
        flags.Error,
        AttributeError,
        KeyError,
        TypeError,
    ) as error:  # the last three: an unknown --config.x.y
        raise InputError(str(error)) from None


if __name__ == "__main__":
    run_command(lambda: app.run(main, flags_parser=_parse_flags))

"""Run one configuration: `chexseg run semi:p=0.9 [--workdir=DIR] [--config.x.y=v]`.

CONFIG is a file, or the name of one of the package's: `chexseg run` lists them, `chexseg run semi:help` the arguments
of one. `python launch.py --config=configs/semi.py:p=0.9` is the same command.
"""

import os
import sys
from collections.abc import Sequence

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from chexseg_jax import experiment, processes, settings, sweep
from chexseg_jax.artifact import config_digest
from chexseg_jax.config_args import list_configs, parse_flags, with_files
from chexseg_jax.dry_run import describe
from chexseg_jax.errors import InputError, disk_errors, run_command
from chexseg_jax.files import expand_home, make_folder

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="NAME or FILE.py, then :key=value,...; NAME:help lists the keys."
)
_WORKDIR = flags.DEFINE_string("workdir", "work", "Folder of artifacts and reports; rerun in it to resume.")
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print settings, stages, disk and time; compute and write nothing."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0 of several; on a cluster JAX detects it."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes.", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process", None, "Number of this process, from 0.", lower_bound=0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; `chexseg run` alone lists the configurations."""
    if arguments == []:
        print(list_configs())
        return
    sys.argv[1:] = with_files(
        sys.argv[1:] if arguments is None else arguments
    )  # config_flags reads them there
    if {"--help", "-help", "-h"} & {*sys.argv[1:]}:  # absl would describe the flags of `__main__`
        print(f"{__doc__}\n{flags.FLAGS.module_help(__name__)}")
        return
    app.run(_launch, flags_parser=parse_flags)


def _launch(_: list[str]) -> None:
    """Join the other processes, turn on the compilation cache, and hand over."""
    logging.set_verbosity(logging.FATAL)  # Orbax logs every thread, and all errors that it then raises
    config, workdir = _CONFIG.value, expand_home(_WORKDIR.value)
    if config.shard != "1/1" or _DRY_RUN.value:  # other runs may use the same GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if config.deterministic:
        processes.be_deterministic()
    processes.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    if _DRY_RUN.value:
        plan = describe(config, workdir, config_flags.get_config_filename(flags.FLAGS["config"]))
        if jax.process_index() == 0:
            print(plan)
        return
    make_folder(workdir, "--workdir")
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "xla_cache"))
    # Cache even programs that compile fast: many small ones make a slow start.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    with processes.ending_together(), disk_errors(workdir):
        if processes.on_first(config_digest, config) != config_digest(config):
            raise InputError(
                f"process {jax.process_index()} has another configuration than process 0; start configurations that "
                "differ, such as shards, as separate jobs"
            )
        (sweep if config.kind in settings.TABLES else experiment).run(config, workdir)


if __name__ == "__main__":
    run_command(main)

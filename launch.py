"""Run one configuration: `python launch.py --config=configs/semi.py:p=0.9 [--workdir=DIR] [--config.x.y=v]`."""

import os

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from chexseg_jax import experiment, processes, settings, sweep
from chexseg_jax.artifact import config_digest
from chexseg_jax.config_args import parse_flags
from chexseg_jax.errors import InputError, disk_errors, run_command
from chexseg_jax.files import expand_home, make_folder

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="configs/NAME.py:key=value,...; an unknown key lists the known ones."
)
_WORKDIR = flags.DEFINE_string("workdir", "work", "Folder of artifacts and reports; rerun in it to resume.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0 of several; on a cluster JAX detects it."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes.", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process", None, "Number of this process, from 0.", lower_bound=0)
flags.mark_flag_as_required("config")


def main(_: list[str]) -> None:
    """Join the other processes, turn on the compilation cache, and hand over."""
    logging.set_verbosity(logging.FATAL)  # Orbax logs every thread, and all errors that it then raises
    config = _CONFIG.value
    if config.shard != "1/1":  # other shards may use the same GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    processes.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    workdir = expand_home(_WORKDIR.value)
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
    run_command(lambda: app.run(main, flags_parser=parse_flags))

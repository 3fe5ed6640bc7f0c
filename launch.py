"""Runs one configuration: `python launch.py --config=configs/semi.py:p=0.9 [--workdir=DIR] [--config.x.y=v]`."""

import os
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from chexseg_jax import experiment, processes, sweep
from chexseg_jax.artifact import config_digest
from chexseg_jax.errors import InputError, run_command

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="configs/NAME.py:key=value,...; a wrong key lists the known ones."
)
_WORKDIR = flags.DEFINE_string("workdir", "work", "Folder of artifacts and reports; a run goes on in it.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where there are several; on a cluster JAX finds it."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "How many processes there are.", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process", None, "Which of them this one is, from 0.", lower_bound=0)
flags.mark_flag_as_required("config")
_IRNET = "give pseudo=irnet behind the colon"
#: What brings the sections that not every configuration has.
_SECTIONS = {
    "irnet": _IRNET,
    "walk": _IRNET,
    "trunk": _IRNET,
    "moco": "give init=moco behind the colon",
    "grid": "configs/table1.py and table2.py have them",
}


def main(_: list[str]) -> None:
    """Joins the other processes, turns on the compilation cache and hands over."""
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every thread it starts
    if _CONFIG.value.get("shard", "1/1") != "1/1":  # others may be at work on the same GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    processes.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    workdir = Path(_WORKDIR.value).expanduser()  # behind = the shell leaves the tilde
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = (
            "is a file; give a folder"
            if workdir.is_file()
            else f"{error.strerror}; give a folder to write to"
        )
        raise InputError(f"--workdir={workdir}: {what}") from None
    jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "xla_cache"))
    jax.config.update(
        "jax_persistent_cache_min_compile_time_secs", 0.0
    )  # many small programs are a long start
    with processes.ending_together():
        digest = config_digest(_CONFIG.value)
        if processes.on_first(lambda: digest) != digest:
            raise InputError(
                f"process {jax.process_index()} has another configuration than process 0; what differs, such as "
                "shards, are jobs of their own"
            )
        (sweep if "grid" in _CONFIG.value else experiment).run(_CONFIG.value, workdir)


def _parse_flags(argv: list[str]) -> list[str]:
    """The flags, or one line on what is wrong with them."""
    try:
        left = flags.FLAGS(argv)
    except (
        flags.Error,
        AttributeError,
        KeyError,
        TypeError,
    ) as error:  # the last three: a wrong --config.x.y
        text: object = error
        while isinstance(text, KeyError):  # whose str() is a quotation
            text = text.args[0]
        if (setting := str(text).strip("'\"")).isidentifier():  # nothing but the name that is not there
            mend = _SECTIONS.get(setting, "arguments, such as recipe=plus, stand behind the colon")
            flag = next(
                (f for a in argv if (f := a.partition("=")[0]).endswith(f".{setting}")), f"--config.{setting}"
            )
            text = f"{flag}: no such setting; {mend}"
        link: BaseException | None = error
        while link is not None:  # config_flags wraps what get_config raises; ours is at the end of the chain
            text = link if isinstance(link, InputError) else text
            link = link.__cause__ or link.__context__
        raise InputError(str(text)) from None
    if left[1:]:
        raise InputError(
            f"{left[1]!r} is no flag; arguments stand behind the colon, --config=configs/semi.py:p=0.9"
        )
    if not isinstance(_CONFIG.value, ConfigDict):
        raise InputError(f"{flags.FLAGS['config'].config_filename}: no such config; see configs/")
    if settled := {"root", "scale"} & config_flags.get_override_values(flags.FLAGS["config"]).keys():
        raise InputError(
            f"--config.{min(settled)}: other settings follow from it; give it behind the colon, "
            f"{flags.FLAGS['config'].config_filename}:{min(settled)}=..."
        )
    return left


if __name__ == "__main__":
    run_command(lambda: app.run(main, flags_parser=_parse_flags))

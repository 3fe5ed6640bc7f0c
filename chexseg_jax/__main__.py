"""The command `chexseg NAME ...`, also `python -m chexseg_jax NAME ...`."""

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module, metadata

from chexseg_jax import __version__
from chexseg_jax.errors import InputError, run_command

#: Name -> (module with `main(arguments)`, description). A module is imported when its command is used.
COMMANDS = {
    "run": ("chexseg_jax.run", "train and score a configuration: chexseg run semi:p=0.9"),
    "predict": ("chexseg_jax.predict.__main__", "segment radiographs with a trained model"),
    "evaluate": ("chexseg_jax.evaluation.__main__", "score predictions against radiologists' masks"),
    "phantom": ("chexseg_jax.phantom.__main__", "write synthetic radiographs in the public layouts"),
    "weights": ("chexseg_jax.models.torch_weights.__main__", "convert PyTorch weights, in and out"),
}


def main() -> None:
    """Run the command; what the console script calls."""
    run_command(_dispatch)


def _dispatch(arguments: Sequence[str] | None = None) -> None:
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help", "help"):
        print("usage: chexseg COMMAND ...\n\ncommands (each has --help):")
        for command, (_, description) in COMMANDS.items():
            print(f"  {command:<10}{description}")
        print("\nchexseg --version prints the versions of this package, JAX and Flax.")
    elif name == "--version":
        print(f"chexseg-jax {__version__}, jax {metadata.version('jax')}, flax {metadata.version('flax')}")
    elif name in COMMANDS:
        import_module(COMMANDS[name][0]).main(rest)
    else:
        close = difflib.get_close_matches(name, COMMANDS, 1, cutoff=0)
        raise InputError(
            f"{name}: no such command; did you mean chexseg {close[0]}? chexseg --help lists all"
        )


if __name__ == "__main__":
    main()

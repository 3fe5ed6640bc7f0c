"""The command `chexseg NAME ...`, also `python -m chexseg_jax NAME ...`."""

import difflib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, metadata

from chexseg_jax import __version__
from chexseg_jax.errors import InputError, run_command

#: Name -> (function that takes the arguments, description). A module is imported when its command is used.
COMMANDS = {
    "run": ("run:main", "train and score a configuration: chexseg run semi:p=0.9"),
    "predict": ("predict.__main__:main", "segment radiographs with a trained model"),
    "evaluate": ("evaluation.__main__:main", "score predictions against radiologists' masks"),
    "saliency": ("saliency.__main__:main", "write a classifier's saliency maps, their masks and boxes"),
    "phantom": ("phantom.__main__:main", "write synthetic radiographs in the public layouts"),
    "weights": ("models.torch_weights.__main__:main", "convert PyTorch weights, in and out"),
    "import": ("exchange.__main__:import_main", "make a data set of other programs' labels and masks"),
    "export": ("exchange.__main__:export_main", "write masks as COCO JSON or PNG files"),
    "package": ("package.__main__:main", "write a model as StableHLO, ONNX or a Hub repository"),
    "view": ("report.__main__:main", "show a run's report in a browser"),
}


def main() -> None:
    """Run the command; what the console script calls."""
    run_command(_dispatch)


def command_of(name: str) -> Callable[[Sequence[str]], None]:
    """The function behind a command."""
    module, _, function = COMMANDS[name][0].partition(":")
    return getattr(import_module(f"chexseg_jax.{module}"), function)


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
        command_of(name)(rest)
    else:
        close = difflib.get_close_matches(name, COMMANDS, 1, cutoff=0)
        raise InputError(
            f"{name}: no such command; did you mean chexseg {close[0]}? chexseg --help lists all"
        )


if __name__ == "__main__":
    main()

"""Package a trained model for other programs.

stablehlo  one program for JAX on CPUs and NVIDIA GPUs, without this package
onnx       one program for onnxruntime and others
hub        a Hugging Face repository, which this package opens again

OUT is a new folder with the model, model.json (tasks, thresholds, size, provenance) and a README.md, whose
Python code runs as it is.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from chexseg_jax.errors import InputError, Parser, PartlyDoneError, first_line, run_command
from chexseg_jax.files import new_folder
from chexseg_jax.package import onnx, stablehlo
from chexseg_jax.package.card import card_of, read_scores, readme
from chexseg_jax.processes import check_devices
from chexseg_jax.progress import say
from chexseg_jax.saved_model import restore


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = Parser(
        prog="chexseg package", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of a run, an artifact or an import")
    parser.add_argument("out", metavar="OUT", type=Path, help="a new folder")
    parser.add_argument("--to", required=True, choices=["stablehlo", "onnx", "hub"])
    parser.add_argument("--push", metavar="USER/NAME", help="with --to hub: upload it there, too")
    flags = parser.parse_args(arguments)
    if flags.push and flags.to != "hub":
        raise InputError(f"--push {flags.push}: only --to hub is uploaded")
    check_devices()
    if flags.to == "hub":
        _to_hub(flags.model, flags.out, flags.push)
    else:
        _to_program(flags.model, flags.out, flags.to)


def _to_program(source: Path, out: Path, to: str) -> None:
    model = restore(source)
    if not model.config.num_classes:
        raise InputError(
            f"{source}: a {model.config.name} without outputs predicts nothing; only --to hub takes it"
        )
    with new_folder(out) as part:
        if to == "stablehlo":
            (part / stablehlo.FILE).write_bytes(stablehlo.to_stablehlo(model))
        else:
            onnx.write_onnx(part / onnx.FILE, model)
        card = card_of(model)
        (part / "model.json").write_text(json.dumps(card, indent=1))
        (part / "README.md").write_text(readme(card, read_scores(source), to, out.name))
    file = max(out.iterdir(), key=lambda path: path.stat().st_size)
    say(f"{file}: {file.stat().st_size / 1e6:.1f} MB; {out / 'README.md'} says how to use it")


def _to_hub(source: Path, out: Path, repository: str | None) -> None:
    try:
        from chexseg_jax.package.hub import HubModel
    except ImportError:
        raise InputError("--to hub needs huggingface_hub; pip install 'chexseg-jax[hub]'") from None
    model = HubModel(source)
    with new_folder(out) as part:
        model.save_pretrained(part, model_card_kwargs={"folder": repository or out.name})
    say(f"{out}: a repository's files")
    if repository:
        try:
            say(model.push_to_hub(repository, model_card_kwargs={"folder": repository}))
        except Exception as error:  # the client's, httpx's and the operating system's
            raise PartlyDoneError(
                f"--push {repository}: not uploaded ({first_line(error)}); run `hf auth login`, or upload {out} by "
                "`hf upload`"
            ) from None


if __name__ == "__main__":
    run_command(main)

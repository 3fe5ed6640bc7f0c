"""The command `chexseg phantom --out DIR --patients N --seed S`: write a phantom."""

from collections.abc import Sequence

from chexseg_jax.errors import InputError, Parser, run_command
from chexseg_jax.phantom.write import make

#: Shares of the patients in valid and in test; the others are in train.
VALID_SHARE, TEST_SHARE = 0.25, 0.20

#: Images per patient, on average: train patients have several studies and views.
TRAIN_VIEWS, EXPERT_VIEWS = 1.9, 1.1

_DESCRIPTION = """\
Write a phantom: synthetic chest radiographs with masks, labels and a second reader, in the layouts of CheXpert and
CheXlocalize. 55 % of the patients are in train, 25 % in valid, 20 % in test. DIR/PHANTOM.md describes the files. To
train on them: chexseg run semi:p=0.9,root=DIR,scale=laptop"""


def split_patients(patients: int) -> dict[str, int]:
    """Return the number of images in each split for about `patients` patients."""
    if patients < 3:
        raise InputError(
            f"--patients {patients}: must be at least 3, since the three splits share no patient"
        )
    valid, test = max(1, round(VALID_SHARE * patients)), max(1, round(TEST_SHARE * patients))
    return {
        "train": max(1, round(TRAIN_VIEWS * (patients - valid - test))),
        "valid": max(1, round(EXPERT_VIEWS * valid)),
        "test": max(1, round(EXPERT_VIEWS * test)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the phantom."""
    parser = Parser(prog="chexseg phantom", description=_DESCRIPTION)
    add = parser.add_argument
    add(
        "--out",
        required=True,
        metavar="DIR",
        help="folder to write: new, empty, or an older phantom to replace",
    )
    add(
        "--patients",
        type=int,
        default=400,
        metavar="N",
        help="number of patients in all splits (default 400)",
    )
    add("--seed", type=int, default=0, metavar="S", help="the same seed gives the same bytes (default 0)")
    add("--size", type=int, default=320, metavar="PX", help="short side, 64 to 2048 pixels (default 320)")
    add(
        "--conspicuity",
        type=float,
        default=1.0,
        metavar="F",
        help="factor on the findings' attenuation; below 1 is harder to see (default 1)",
    )
    add("--processes", type=int, metavar="N", help="worker processes (default: one per core)")
    options = vars(parser.parse_args(arguments))
    images = split_patients(options.pop("patients"))
    out = make(options.pop("out"), **options, **images)
    counts = ", ".join(f"{count} {split}" for split, count in images.items())
    print(f"{out}: phantom with {counts} images")


if __name__ == "__main__":
    run_command(main)

"""`python -m chexseg_jax.phantom --out DIR --patients N --seed S`: writes a phantom tree."""

import argparse

from chexseg_jax.errors import InputError, refuse, run_command
from chexseg_jax.phantom.write import make

#: Share of the patients in valid and in test; the rest is train.
VALID_SHARE, TEST_SHARE = 0.25, 0.20

#: Images a patient, on average: a training patient comes back, and may get a second view.
TRAIN_VIEWS, EXPERT_VIEWS = 1.9, 1.1


def split_patients(patients: int) -> dict[str, int]:
    """Images in each split for a number of patients: 55 % train, 25 % valid, 20 % test, about so many of them."""
    if patients < 3:
        raise InputError(f"--patients {patients}: three splits share no patient, so at least 3 are needed")
    valid, test = max(1, round(VALID_SHARE * patients)), max(1, round(TEST_SHARE * patients))
    return {
        "train": max(1, round(TRAIN_VIEWS * (patients - valid - test))),
        "valid": max(1, round(EXPERT_VIEWS * valid)),
        "test": max(1, round(EXPERT_VIEWS * test)),
    }


def main() -> None:
    """Reads the command line and writes the tree."""
    parser = argparse.ArgumentParser(
        prog="python -m chexseg_jax.phantom", description=make.__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="directory to write; new, empty, or a phantom"
    )
    parser.add_argument(
        "--patients", type=int, default=400, metavar="N", help="patients over all splits (400)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same bytes (0)")
    parser.add_argument("--size", type=int, default=320, metavar="PX", help="short side in pixels (320)")
    parser.add_argument(
        "--conspicuity", type=float, default=1.0, help="factor on the findings' attenuation (1.0)"
    )
    parser.add_argument("--processes", type=int, help="worker processes (one a core)")
    parser.error = refuse
    given = parser.parse_args()
    images = split_patients(given.patients)
    out = make(
        given.out,
        **images,
        size=given.size,
        seed=given.seed,
        conspicuity=given.conspicuity,
        processes=given.processes,
        progress=True,
    )
    print(
        f"{out}: phantom with {images['train']} train, {images['valid']} valid, {images['test']} test images"
    )


if __name__ == "__main__":
    run_command(main)

"""Find the radiographs below the paths that a user gives."""

from collections.abc import Sequence
from pathlib import Path

from chexseg_jax.data.layout import image_id
from chexseg_jax.errors import InputError


def find_images(paths: Sequence[Path]) -> dict[str, Path]:
    """Map image ids to files, for image files and for the JPEGs and PNGs below folders.

    Ids are those of a table (see `image_id`) by the path below the folder given: the root of a data set gives
    `patient_study_view`, a flat folder or a single file the file's name. Folders named as CheXpert's,
    `patient*/study*`, count wherever the path given starts.

    Raises:
      InputError: for a missing file, a folder without images, two images with the same id, or a name that is not UTF-8.
    """
    images: dict[str, Path] = {}
    for path in paths:
        files = [path]
        if path.is_dir():
            files = sorted(f for f in path.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
            if not files:
                raise InputError(f"{path}: a folder without a .jpg or .png; give a folder of radiographs")
        for file in files:
            if not file.is_file():
                raise InputError(f"{file}: no such image; check the path")
            parts = file.absolute().parts[-3:]
            if not (parts[0].startswith("patient") and parts[1].startswith("study")):
                parts = file.relative_to(path).parts or (file.name,)
            if (name := image_id(parts)) in images:
                raise InputError(f"{file}: has the id of {images[name]}, {name}; predict them separately")
            if name.encode(errors="replace").decode() != name:
                raise InputError(f"{str(file)!r}: its name is not UTF-8; rename it")
            images[name] = file
    return images

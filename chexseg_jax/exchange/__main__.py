"""Import labels and masks of other programs and data sets as a root that all commands read, and export masks.

chexseg import coco valid=val.json test=test.json --images DIR --out ROOT --missing empty --view frontal
chexseg export coco ROOT --out DIR
"""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from chexseg_jax.data.layout import check_layout
from chexseg_jax.data.taxonomy import CHEXPERT, Missing, Taxonomy, read_taxonomy
from chexseg_jax.data.text import read_text
from chexseg_jax.errors import InputError, Parser, run_command
from chexseg_jax.exchange.export import EXPORTERS, export
from chexseg_jax.exchange.importers import IMPORTERS
from chexseg_jax.exchange.items import Contents, Images, Item, LeftOut
from chexseg_jax.exchange.joining import (
    SPLITS,
    assign_splits,
    canonical,
    find_patients,
    merge,
    rename,
    shares,
    task_set,
)
from chexseg_jax.exchange.masks import NOT_FOUND, Context
from chexseg_jax.exchange.root import write_root
from chexseg_jax.exchange.tables import read_csv, read_root
from chexseg_jax.files import expand_home
from chexseg_jax.phantom import MARKER
from chexseg_jax.progress import say

_FORMATS = "\n".join(f"  {name:10} {importer.source}" for name, importer in IMPORTERS.items())
_IMPORT = f"""\
Write labels and masks of another format as a root: train.csv, valid.csv, test_labels.csv, gt_segmentations_val.json,
gt_segmentations_test.json, tasks.toml, and links to the images.

formats:
{_FORMATS}

An image with masks goes to valid or test, an image without them to train. What a source does not say is asked for;
what is left out is counted and named, in full in import.txt."""


def import_main(arguments: Sequence[str] | None = None) -> None:
    """Run `chexseg import`."""
    flags = _import_parser().parse_args(arguments)
    shares(flags.valid, flags.test)
    command = shlex.join(["chexseg", "import", *(sys.argv[1:] if arguments is None else arguments)])
    for line in _import(flags, command):
        say(line)
    print(flags.out)


def _import_parser() -> Parser:
    parser = Parser(
        prog="chexseg import", description=_IMPORT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("format", metavar="FORMAT", choices=IMPORTERS, help="one of the above")
    add(
        "sources",
        metavar="SOURCE",
        nargs="+",
        help="file or folder; SPLIT=SOURCE if all of it is train, valid or test",
    )
    add("--out", required=True, type=Path, metavar="ROOT", help="the root to write; it must not exist")
    add("--images", type=Path, metavar="DIR", help="folder of the images (default: those of --labels ROOT)")
    add(
        "--labels",
        type=Path,
        metavar="CSV|ROOT",
        help="labels of the images: a table as for csv, or another root",
    )
    add("--missing", choices=get_args(Missing), help="a task without a mask: no pixel, or not looked for")
    add(
        "--patient",
        metavar="HOW",
        help="whose an image is: image, folder, or a pattern of file names with a group",
    )
    add("--view", choices=("frontal", "lateral"), help="of images whose view is unknown")
    add("--valid", type=float, default=0.0, metavar="SHARE", help="share of the patients for valid")
    add("--test", type=float, default=0.0, metavar="SHARE", help="share of the patients for test")
    add("--seed", type=int, default=0, help="of the draw of patients (default 0)")
    add("--valid-list", type=Path, metavar="FILE", help="names of the valid images, one a line")
    add("--test-list", type=Path, metavar="FILE", help="names of the test images, one a line")
    add(
        "--rename",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="name of a label or task; OLD= leaves it out",
    )
    add(
        "--tasks",
        type=Path,
        metavar="TOML",
        help="the task set (default: the labels and tasks of the sources)",
    )
    add(
        "--columns",
        default="",
        metavar="WHAT=NAME,...",
        help="columns of a table: image, patient, study, view, split",
    )
    add("--reports", type=Path, metavar="CSV", help="the reports that CheXbert read; CheXpert Plus' table")
    add("--boxes", action="store_true", help="take a box as a mask where there is no outline")
    add("--agree", type=int, metavar="N", help="radiologists who must have drawn a pixel (vindr)")
    add("--copy", action="store_true", help="copy the images instead of linking to them")
    return parser


def _import(flags: argparse.Namespace, command: str) -> list[str]:
    """Read, join, complete, split and write; return lines about what came of it."""
    left_out, sources = LeftOut(), [_in_split(source) for source in flags.sources]
    base_root = flags.labels if flags.labels and flags.labels.is_dir() else None
    _check_used(flags, labels_are_a_table=bool(flags.labels and not base_root))
    base = read_root(check_layout(base_root, labels_alone=True)) if base_root else Contents(())
    if flags.images and base_root:
        raise InputError(
            f"--images {flags.images}: with --labels ROOT, the images are the root's; leave --images out"
        )
    if flags.images:
        masks = [path.absolute() for _, path in sources if flags.format == "png"]
        images = Images.below(flags.images, without=masks)
    elif base_root:
        images = Images(base_root.absolute(), [item.path for item in base.items])
    else:
        raise InputError("--images DIR is missing: the folder of the images")
    names = dict(_pair("--rename", one) for one in flags.rename)
    unwanted = [old for old, new in names.items() if not new]
    columns = _columns(flags.columns)
    context = Context(images, left_out, flags.boxes, flags.agree, columns, flags.reports, unwanted)
    if flags.labels and not base_root:
        base = read_csv(flags.labels, context)
    read, new, tasks = IMPORTERS[flags.format].read, [], dict.fromkeys(base.tasks)
    for split, source in sources:
        contents = read(source, context)
        new += [dataclasses.replace(item, split=split or item.split) for item in contents.items]
        tasks.update(dict.fromkeys(contents.tasks))
    if not new:
        lost = f", such as {left_out.names[NOT_FOUND][0]}," if NOT_FOUND in left_out.names else ""
        some = images.files[0].relative_to(images.folder)
        raise InputError(
            f"{sources[0][1]}: none of its images{lost} is below {images.folder}, which has {some}; give the folder "
            "that their paths start from"
        )
    items = merge(new, base.items)
    others = sorted({*images.files} - {item.path for item in items})
    for path in others:
        if base.items or not tasks:
            left_out.add("images below --images that no source names", str(path.relative_to(images.folder)))
        else:
            items.append(Item(str(path.relative_to(images.folder)), path))
    named = rename(Contents(items, tuple(tasks)), names)
    items = _listed(named.items, images, {"valid": flags.valid_list, "test": flags.test_list}, left_out)
    if (flags.valid_list or flags.test_list) and not (flags.valid or flags.test):
        items = [dataclasses.replace(item, split=item.split or "train") for item in items]
    known = [read_taxonomy(base_root), CHEXPERT] if base_root else [CHEXPERT]
    taxonomy = _read_tasks(flags.tasks) if flags.tasks else task_set(items, named.tasks, known)
    missing = flags.missing or (taxonomy.missing if flags.tasks else known[0].missing if base.tasks else None)
    items, taxonomy = canonical(items, taxonomy, missing)
    items = find_patients(items, flags.patient, flags.view, left_out)
    items = assign_splits(items, valid=flags.valid, test=flags.test, seed=flags.seed, left_out=left_out)
    marker = next(
        (m for place in (images.folder, *images.folder.parents) if (m := place / MARKER).is_file()), None
    )
    lines = write_root(
        flags.out, items, taxonomy, copy=flags.copy, left_out=left_out, command=command, marker=marker
    )
    return [f"{flags.format}: {len(new)} images", *lines, *left_out.lines()]


def _check_used(flags: argparse.Namespace, *, labels_are_a_table: bool) -> None:
    """Refuse flags that the format would ignore."""
    given = {"boxes": flags.boxes, "agree": flags.agree is not None}
    given |= {"reports": bool(flags.reports), "columns": bool(flags.columns)}
    used = (*IMPORTERS[flags.format].flags, *(["columns"] if labels_are_a_table else []))
    for flag in (flag for flag, is_given in given.items() if is_given and flag not in used):
        formats = ", ".join(name for name, importer in IMPORTERS.items() if flag in importer.flags)
        raise InputError(f"--{flag} is for {formats}; {flags.format} does not use it; leave it out")


def _in_split(source: str) -> tuple[str | None, Path]:
    split, equals, path = source.partition("=")
    return (split, expand_home(path)) if equals and split in SPLITS else (None, expand_home(source))


def _pair(flag: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InputError(f"{flag} {text!r}: expected NAME=VALUE")
    return name.strip(), value.strip()


def _columns(text: str) -> dict[str, str]:
    columns = dict(_pair("--columns", part) for part in text.split(",") if part)
    if unknown := sorted(columns.keys() - {"image", "patient", "study", "view", "split"}):
        raise InputError(f"--columns {unknown[0]}=: must be one of image, patient, study, view, split")
    return columns


def _read_tasks(path: Path) -> Taxonomy:
    if path.name != "tasks.toml":
        raise InputError(f"--tasks {path}: must be a file tasks.toml")
    read_text(path, "a task set in TOML")
    return read_taxonomy(path.parent)


def _listed(
    items: Sequence[Item], images: Images, lists: dict[str, Path | None], left_out: LeftOut
) -> list[Item]:
    """Items with the splits that lists of images give."""
    split_of: dict[Path, str] = {}
    for split, file in lists.items():
        for name in read_text(file, "names of images, one a line").split("\n") if file else ():
            path = images.find(name.strip())
            if name.strip() and not path:
                left_out.add(f"images of {file} that are not below --images", name.strip())
            if path and split_of.setdefault(path, split) != split:
                raise InputError(f"{file}: {name.strip()} is in both lists")
    if any(lists.values()) and not split_of:
        raise InputError(f"none of the images of the lists is below {images.folder}")
    return [dataclasses.replace(item, split=split_of.get(item.path, item.split)) for item in items]


def export_main(arguments: Sequence[str] | None = None) -> None:
    """Run `chexseg export`."""
    parser = Parser(
        prog="chexseg export",
        description="Write the masks of a root, or of a prediction, for other programs.",
    )
    add = parser.add_argument
    add("format", metavar="FORMAT", choices=EXPORTERS, help="coco (a JSON a split) or png (TASK/ID.png)")
    add("source", type=Path, metavar="ROOT|FILE", help="a root, or segmentations in CheXlocalize's JSON")
    add("--out", required=True, type=Path, metavar="DIR", help="the folder to write; it must not exist")
    add("--images", type=Path, metavar="DIR", help="folder of the images (needed for coco of a FILE)")
    add("--rle", action="store_true", help="coco: run lengths instead of polygons")
    flags = parser.parse_args(arguments)
    for line in export(flags.format, flags.source, flags.out, images=flags.images, rle=flags.rle):
        say(line)
    print(flags.out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m chexseg_jax.exchange import ...` or `... export ...`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    doors = {"import": import_main, "export": export_main}
    if not words or words[0] not in doors:
        raise InputError("expected import or export; import --help and export --help say more")
    doors[words[0]](words[1:])


if __name__ == "__main__":
    run_command(main)

"""A user's text files: UTF-8, with or without a byte order mark; an error names what else a file is."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from chexseg_jax.errors import InputError

#: First bytes of files that are not the text they are named, and what each is.
_FIRST_BYTES = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run git lfs pull",
    b"<": "a web page (HTML or XML), perhaps a login page; download the file itself",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
    b"PK\x03\x04": "a ZIP archive or an Excel workbook; unpack it, or save the sheet as CSV (UTF-8)",
    b"\x1f\x8b": "compressed by gzip; unpack it",
}


def read_text(path: Path, kind: str) -> str:
    """Read a text file, without its byte order mark; line ends stay.

    Args:
      path: the file.
      kind: for errors, such as `a CheXpert table`.

    Raises:
      InputError: for a file that is missing, empty, or not UTF-8 text, such as a Git LFS pointer or a web page.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected {kind}") from None
    start = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        raise InputError(f"{path}: is empty; expected {kind}")
    for first, meaning in _FIRST_BYTES.items():
        if start.startswith(first):
            raise InputError(f"{path}: is {meaning}")
    if b"\0" in content:
        raise InputError(f"{path}: has NUL bytes, as UTF-16 and binary files have; expected {kind} in UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8, perhaps Latin-1 (Windows-1252); "
            "save it as UTF-8"
        ) from None


def csv_rows(path: Path, kind: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of each row of a CSV table, the header first; rows of blank cells are skipped.

    Raises:
      InputError: see `read_text`, and for quotation marks that do not pair or a header without commas.
    """
    rows, is_header = csv.reader(io.StringIO(read_text(path, kind), newline=""), strict=True), True
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            for separator, name in (";", "semicolons"), ("\t", "tabs"):
                if is_header and len(row) == 1 and separator in row[0]:
                    raise InputError(
                        f"{path}: its cells are separated by {name}; save it with commas, as CSV (UTF-8)"
                    )
            yield rows.line_num, row
            is_header = False
    except csv.Error as error:
        raise InputError(
            f"{path}, line {rows.line_num}: not a CSV table ({error}); look for a stray quotation mark"
        ) from None

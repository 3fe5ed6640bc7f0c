"""Random damage to a valid input: of text by tokens, of binary files by bytes."""

import re

import numpy as np

_SPECIAL = (
    *(b"NaN", b"-1", b"0", b"-0.0", b"0.5", b"1e999", b"Infinity", b"99999999999999999999", b"9" * 5000),
    *(b"[]", b"{}", b"null", b"true", b'""', b'"', b"[[0]]", b"[" * 3000, b"{" * 3000, b'{"a": ' * 3000),
    *(
        b"\0",
        b"\xff\xfe",
        b"\xc3\xa9",
        b"\xe9",
        b"\\ud800",
        b"\r",
        b"\n",
        b",",
        b";",
        b"=",
        b"..",
        b"/",
        b"\\",
    ),
)


def damage(rng: np.random.Generator, content: bytes) -> bytes:
    """Flip bytes, cut, or duplicate, delete, replace and insert tokens, one to three times."""
    for _ in range(rng.integers(1, 4)):
        tokens = re.findall(rb"[\w.-]+|\s+|[^\w\s]", content)
        if not tokens:
            return content
        at, other = rng.integers(0, len(tokens), 2)
        special = _SPECIAL[rng.integers(len(_SPECIAL))]
        match rng.integers(7):
            case 0:
                flipped = bytearray(content)
                flipped[rng.integers(len(flipped))] ^= 1 << rng.integers(8)
                content = bytes(flipped)
                continue
            case 1:
                tokens = tokens[: at + 1]
            case 2:
                tokens[at:at] = tokens[min(at, other) : max(at, other)]
            case 3:
                del tokens[min(at, other) : max(at, other)]
            case 4:
                tokens[at] = tokens[other]
            case 5:
                tokens[at] = special
            case _:
                tokens.insert(at, special)
        content = b"".join(tokens)
    return content


def damage_bytes(rng: np.random.Generator, content: bytes) -> bytes:
    """Flip bits, mostly near the beginning, overwrite a few bytes, cut, or repeat a piece, one to three times."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        end = len(changed) if rng.random() < 0.5 else min(len(changed), 300)
        at, length = int(rng.integers(end)), int(rng.integers(1, 9))
        match rng.integers(5):
            case 0 | 1:
                changed[at] ^= 1 << rng.integers(8)
            case 2:
                changed[at : at + length] = rng.bytes(length)
            case 3:
                changed[at:at] = changed[at : at + 20 * length]
            case _:
                del changed[at + 1 :]
    return bytes(changed)


def damage_dicom(rng: np.random.Generator, content: bytes) -> bytes:
    """As `damage_bytes`; half of the inputs keep the prefix, and damage begins in the header or in the pixels."""
    cut = int(rng.integers(132, len(content))) if rng.random() < 0.5 else 0
    return content[:cut] + damage_bytes(rng, content[cut:])

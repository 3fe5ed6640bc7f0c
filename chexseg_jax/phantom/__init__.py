"""Synthetic chest radiographs with all ten pathologies, written as a CheXpert + CheXlocalize download.

`make` writes a tree; `render` draws a single `View`. A result on the phantom is always called one.
"""

from chexseg_jax.phantom.render import Rendered, View, render
from chexseg_jax.phantom.write import MARKER, VERSION, make

__all__ = ["MARKER", "VERSION", "Rendered", "View", "make", "render"]

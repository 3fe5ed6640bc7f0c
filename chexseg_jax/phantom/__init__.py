"""Synthetic chest radiographs with all ten pathologies, written as a CheXpert + CheXlocalize download.

`make` writes a folder, `render` a single `View`. Always report a result on the phantom as one.
"""

from chexseg_jax.phantom.render import Rendered, render
from chexseg_jax.phantom.view import View
from chexseg_jax.phantom.write import MARKER, VERSION, make

__all__ = ["MARKER", "VERSION", "Rendered", "View", "make", "render"]

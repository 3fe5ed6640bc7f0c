"""CheXseg in JAX: chest X-ray segmentation from few expert masks and many pseudo-masks."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # `chexseg_jax.restore` without paying for JAX in programs that only read files (the phantom's workers).
    if name in ("restore", "Restored"):
        from chexseg_jax import saved_model

        return getattr(saved_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

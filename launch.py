"""Run one configuration: `python launch.py --config=configs/semi.py:p=0.9 [--workdir=DIR] [--config.x.y=v]`."""

from chexseg_jax.errors import run_command
from chexseg_jax.run import main

if __name__ == "__main__":
    run_command(main)

#!/usr/bin/env bash
# The commands of an installed wheel, from an empty folder.
# tests/wheel.sh PYTHON  builds the wheel, installs it in a new environment of PYTHON, and runs all of them.
# tests/wheel.sh         runs the quick ones with the `chexseg` on the PATH.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
if test $# -gt 0; then
  cd "$(dirname "$0")/.."
  rm -rf build  # an earlier build's files would go into the wheel
  "$1" -m pip wheel -q --no-deps -w "$place/wheel" .
  "$1" -m venv "$place/environment"
  . "$place/environment/bin/activate"
  pip install -q "$(echo "$place"/wheel/*.whl)[stablehlo]"
fi
unset PYTHONPATH CHEXPERT_ROOT
mkdir "$place/empty"
cd "$place/empty"
set -x
chexseg --version
python -c 'import chexseg_jax; assert "site-packages" in chexseg_jax.__file__, chexseg_jax.__file__'
python -c 'import importlib.util as u; assert u.find_spec("configs") is None; assert u.find_spec("launch") is None'
chexseg phantom --out p --patients 3 --size 64 --processes 1
chexseg run | grep '^  semi  '
chexseg run semi:help | grep '^  p=0.9 in \[0, 1\]  '
chexseg run configs/semi.py:smoke --dry_run | grep '^To do: 11 of 11 stages'
test "$(ls)" = p  # nothing else was written
test $# -gt 0 || exit 0
chexseg run semi:p=0.9,smoke --config.phantom.train=80 --config.phantom.valid=30 --config.phantom.test=10
chexseg run semi:p=0.9,smoke --config.phantom.train=80 --config.phantom.valid=30 --config.phantom.test=10 --dry_run |
  grep '^To do: 0 of'
data=$(echo work/artifacts/phantom-*/data)
chexseg predict --checkpoint work/runs/* --out masks "$data/CheXpert-v1.0-small/test"
chexseg evaluate --gt "$data/gt_segmentations_test.json" --pred masks/segmentations.json --out scores
ls scores/pooled_iou.csv work/runs/*/report.html
chexseg package work/runs/* shipped --to stablehlo
cp "$(find "$data/CheXpert-v1.0-small/test" -name '*.jpg' | head -n 1)" radiograph.png
sed -n '/^```python$/,/^```$/{/^```/!p}' shipped/README.md > program.py  # which needs JAX alone
python -c 'import sys; sys.modules["chexseg_jax"] = None; exec(open("program.py").read()); print(masks.shape)'

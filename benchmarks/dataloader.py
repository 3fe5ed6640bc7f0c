"""Time torch's DataLoader, used as usual on a folder of JPEGs, for input_pipeline.py; print its rates as JSON."""

import json
import re
import resource
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image

SIZE, BATCH = 320, 16


class Radiographs(torch.utils.data.Dataset):
    """Images as normalised RGB tensors."""

    def __init__(self, paths, transform):
        self.paths, self.transform = paths, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, row):
        return self.transform(Image.open(self.paths[row]).convert("RGB"))


def main() -> None:
    """Print {workers: [images per second, images per CPU second]}."""
    folder, epochs = Path(sys.argv[1]), int(sys.argv[2])
    declared = _declare_operators()
    from torchvision import transforms

    steps = [
        transforms.Resize((SIZE, SIZE)),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.09] * 3),
    ]
    dataset = Radiographs(sorted(folder.rglob("*.jpg")), transforms.Compose(steps))
    rates = {}
    for workers in (0, 1, 2):
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )
        used = _cpu_seconds()
        for epoch in range(1 + epochs):  # the first starts the workers and is not timed
            if epoch == 1:
                start = time.perf_counter()
            for batch in loader:
                assert batch.shape[1:] == (3, SIZE, SIZE)
        rate = epochs * len(dataset) / (time.perf_counter() - start)
        del loader  # end the workers: a child's CPU time is known only once it has ended
        rates[workers] = rate, (1 + epochs) * len(dataset) / (_cpu_seconds() - used)
    del declared
    print(json.dumps({"where": f"torch {torch.__version__}", "rates": rates}))


def _cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _declare_operators() -> torch.library.Library:
    """Declare torchvision's operators, so that it imports beside a torch of another build without its compiled ones.

    The declarations last as long as the returned library.
    """
    text = (Path(find_spec("torchvision").origin).parent / "_meta_registrations.py").read_text()
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in sorted(set(re.findall(r'register_(?:meta\("|fake\("torchvision::)(\w+)"', text))):
        try:
            library.define(f"{name}(Tensor x) -> Tensor")
        except RuntimeError:  # already defined
            break
    return library


if __name__ == "__main__":
    main()

"""torch's DataLoader doing the usual thing on a folder of JPEGs; prints its rates as JSON. Run by input_pipeline.py."""

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
    """Opened, RGB, resized, a tensor in [0, 1], normalised."""

    def __init__(self, paths, transform):
        self.paths, self.transform = paths, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, row):
        return self.transform(Image.open(self.paths[row]).convert("RGB"))


def main() -> None:
    """Prints {workers: [images a second, images a CPU second]}."""
    folder, epochs = Path(sys.argv[1]), int(sys.argv[2])
    declared = _declare_operators()
    from torchvision import transforms

    steps = [
        transforms.Resize((SIZE, SIZE)),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.09] * 3),
    ]
    dataset = Radiographs(sorted(folder.rglob("*.jpg")), transforms.Compose(steps))
    found = {}
    for workers in (0, 1, 2):
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )
        used = _cpu_seconds()
        for epoch in range(1 + epochs):  # the first starts the workers, which is no rate of theirs
            if epoch == 1:
                start = time.perf_counter()
            for batch in loader:
                assert batch.shape[1:] == (3, SIZE, SIZE)
        rate = epochs * len(dataset) / (time.perf_counter() - start)
        del loader  # ends its workers: the time of a child is known once it has ended
        found[workers] = rate, (1 + epochs) * len(dataset) / (_cpu_seconds() - used)
    del declared
    print(json.dumps({"where": f"torch {torch.__version__}", "rates": found}))


def _cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _declare_operators() -> torch.library.Library:
    """Lets torchvision be imported beside a torch of another build, where it lacks its compiled operators.

    What is declared lasts as long as the library that comes back.
    """
    text = (Path(find_spec("torchvision").origin).parent / "_meta_registrations.py").read_text()
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in sorted(set(re.findall(r'register_(?:meta\("|fake\("torchvision::)(\w+)"', text))):
        try:
            library.define(f"{name}(Tensor x) -> Tensor")
        except RuntimeError:  # it is there
            break
    return library


if __name__ == "__main__":
    main()

"""A model as a Hugging Face repository, by `huggingface_hub.ModelHubMixin`; a local folder needs no network."""

import os
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download

from chexseg_jax.data.reference import UPRIGHT
from chexseg_jax.package.card import card_of, hub_header, read_scores, readme
from chexseg_jax.saved_model import Restored, restore


class HubModel(ModelHubMixin):
    """A saved model that `save_pretrained`, `from_pretrained` and `push_to_hub` handle.

    A repository has the files that `chexseg_jax.restore` opens, `config.json` for the Hub, and a model card.

    Args:
      folder: see `chexseg_jax.restore`.

    Attributes:
      restored: the model.
    """

    restored: Restored

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        self.restored = restore(folder)
        self._card = card_of(self.restored)
        named = {"name", "num_classes", "size", "tasks", "provenance"}
        self._hub_mixin_config = {key: value for key, value in self._card.items() if key in named}

    def _save_pretrained(self, save_directory: Path) -> None:
        inner = self._folder / "model"
        source = self._folder if (self._folder / "model.json").exists() else inner
        shutil.copyfile(source / "model.json", save_directory / "model.json")
        shutil.copytree(source / "variables", save_directory / "variables", dirs_exist_ok=True)
        if self.restored.reference is not UPRIGHT:
            self.restored.reference.save(save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **download: Any) -> "HubModel":
        return cls(model_id if os.path.isdir(model_id) else snapshot_download(model_id, **download))

    def generate_model_card(self, *_: Any, folder: str = "USER/NAME", **__: Any) -> ModelCard:
        """The repository's README, with the Hub's metadata."""
        text = readme(self._card, read_scores(self._folder), "hub", folder)
        return ModelCard(hub_header(self._card) + text)

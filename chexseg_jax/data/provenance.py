"""The origin of a model, kept in its `model.json` and wherever that goes: copies, exports, imports, packages."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from chexseg_jax.errors import InputError


@dataclass(frozen=True)
class Provenance:
    """What a model was trained on, and how well it did there; `str` gives it as one line.

    Attributes:
      data: the name of the training data; a phantom is called one.
      synthetic: whether the images were drawn by a program; None if unknown.
      views: of the training images: frontal, lateral or both; "" if unknown.
      uncertainty: the policy for uncertain and blank labels, see `data.chexpert.targets`; "" if unknown.
      licence: the terms that come with the data; "" if unknown.
      scores: name -> value, such as "test mIoU (pooled)"; None for a score that does not exist. {} in a stage's
        artifact, which is older than its scores: a run's folder has them.
    """

    data: str = "unknown data"
    synthetic: bool | None = None
    views: str = ""
    uncertainty: str = ""
    licence: str = ""
    scores: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> "Provenance":
        """Read the entry `provenance` of a `model.json`; earlier versions wrote none, later ones may write more.

        Raises:
          InputError: for an entry of another form.
        """
        saved = card.get("provenance", {})
        entry = {name: saved[name] for name in cls.__dataclass_fields__ if name in saved}
        texts = [value for name, value in entry.items() if name not in ("synthetic", "scores")]
        scores = entry.get("scores", {})
        try:
            if all(isinstance(text, str) for text in texts) and isinstance(scores, Mapping):
                scores = {name: None if value is None else float(value) for name, value in scores.items()}
                return cls(**{**entry, "scores": scores})
        except (TypeError, ValueError):
            pass
        raise InputError(f"its provenance is not a model's: {entry}; copy it again")

    def to_dict(self) -> dict[str, Any]:
        """The entry `provenance` of a `model.json`."""
        return asdict(self)

    def __str__(self) -> str:
        facts = [f"{self.views} views"] * bool(self.views)
        facts += [f"uncertain labels: {self.uncertainty}"] * bool(self.uncertainty)
        facts += [
            f"{name} {'absent' if value is None else f'{value:.3f}'}" for name, value in self.scores.items()
        ]
        facts += [f"licence: {self.licence}"] * bool(self.licence)
        return f"a model trained on {self.data}" + (f" ({'; '.join(facts)})" if facts else "")


#: Of a model saved by an earlier version, or imported from weights without a record.
UNKNOWN = Provenance()

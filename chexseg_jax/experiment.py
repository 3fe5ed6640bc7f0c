"""The chain of stages behind a configuration, from radiographs to a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.split import split_expert
from chexseg_jax.processes import on_first
from chexseg_jax.progress import say
from chexseg_jax.report.run import Made, write_classifier_report, write_moco_report, write_report
from chexseg_jax.settings import check
from chexseg_jax.sources import Sources, open_sources
from chexseg_jax.stages.cams import make_cams
from chexseg_jax.stages.classifier import score_classifier, train_classifier
from chexseg_jax.stages.imagenet import import_imagenet
from chexseg_jax.stages.irnet import train_irnet, walk_maps
from chexseg_jax.stages.moco import pretrain_moco, probe_encoder
from chexseg_jax.stages.prepare import prepare
from chexseg_jax.stages.pseudo_masks import choose_pseudo_set, make_pseudo_masks, refresh_pseudo_masks
from chexseg_jax.stages.scores import score_segmentation
from chexseg_jax.stages.segmentation import train_segmentation
from chexseg_jax.training.profiling import Profile
from chexseg_jax.training.sharding import check_divides, data_mesh


def run(config: ConfigDict, workdir: Path) -> Path:
    """Runs what `config` asks for; stages that are finished already are reused.

    Of several processes all run it, on one file system: trainings, and what goes over whole sets, are everybody's work,
    the rest the first one's.

    Args:
      config: made by a file of `configs/`; `config.segmentation` absent asks for the classifier alone.
      workdir: takes `artifacts/` (one folder a stage) and `runs/` (one folder a configuration, with the report).

    Returns:
      The run's folder, with `report.md` in it.
    """
    chain = Chain.open(config, workdir)
    config, sources = chain.config, chain.data.sources
    if config.name == "moco":
        trained = chain.moco()
        probes = {"MoCo": chain.probe(trained), "random weights": chain.probe(None)}
        if start := chain.moco_start():
            probes["ImageNet, where it began"] = chain.probe(start)
        return on_first(write_moco_report, workdir, config, sources, trained, probes)
    if "segmentation" not in config:
        trained = chain.classifier(config.classifier)
        return on_first(write_classifier_report, workdir, config, sources, trained, chain.auroc(trained))
    chain.given()  # what is missing is told now, not after the classifiers' hours
    return on_first(write_report, workdir, config, sources, test=chain.data.test, made=chain.segmentation())


@dataclass(frozen=True)
class Data:
    """The radiographs, prepared: what all runs on them share.

    Attributes:
      sources: where they come from.
      weak, expert, test: artifacts of `prepare`.
    """

    sources: Sources
    weak: Path
    expert: Path
    test: Path

    @classmethod
    def open(cls, store: Path, config: ConfigDict) -> "Data":
        """Reads, or makes, what `config` names."""
        sources = open_sources(store, config)
        splits = sources.train, sources.valid, sources.test
        return cls(sources, *(prepare(store, config.data, split) for split in splits))


@dataclass(frozen=True)
class Chain:
    """The stages of one configuration, each method an artifact made or found.

    Attributes:
      store: the folder of artifacts.
      config: see `run`; without `profile`, which names nothing.
      data: see `Data`.
      profile: what is looked into as trainings run.
    """

    store: Path
    config: ConfigDict
    data: Data
    profile: Profile

    @classmethod
    def open(cls, config: ConfigDict, workdir: Path) -> "Chain":
        """Checks the configuration and reads the data; trains nothing.

        Raises:
          InputError: see `settings.check` and `open_sources`.
        """
        check(config)
        if "segmentation" in config:  # the last training, and the one with the smallest batch
            check_divides(config.segmentation.batch_size, data_mesh(), name="config.segmentation.batch_size=")
        profile = Profile.parse(**config.profile)
        config = ConfigDict({key: value for key, value in config.items() if key != "profile"})
        where = config.root or "the phantom (synthetic radiographs, made here)"
        say(f"{config.name}: {config.scale} scale on {where}")
        if profile != Profile():
            say("profile: of each training that is still to do; one that is found finished is not traced")
        store = workdir / "artifacts"
        return cls(store, config, Data.open(store, config), profile)

    def given(self) -> dict[str, str]:
        """Names of the artifacts that come straight from the user's files: a result is theirs alone.

        Raises:
          InputError: where ImageNet's weights are needed, and are not there.
        """
        config = self.config
        names = {name: getattr(self.data, name).name for name in ("weak", "expert", "test")}
        if config.init == "imagenet" or (config.init == "moco" and config.moco.start == "imagenet"):
            names["imagenet"] = self._imagenet(config.encoder.model).name
        if config.pseudo == "irnet" and config.trunk_init == "imagenet":
            names["trunk"] = self._imagenet("resnet50").name
        return names

    def classifier(self, settings: ConfigDict) -> Path:
        """A classifier trained on the weak labels."""
        return train_classifier(
            self.store,
            settings,
            uncertainty=self.config.data.uncertainty,
            weak=self.data.weak,
            expert=self.data.expert,
            seed=self.config.seed,
            profile=self.profile,
        )

    def auroc(self, trained: Path) -> Path:
        """What a classifier scores."""
        return score_classifier(self.store, classifier=trained, splits=self._judging())

    def moco(self) -> Path:
        """An encoder trained without labels."""
        return pretrain_moco(
            self.store,
            self.config.moco,
            images=self.data.weak,
            start=self.moco_start(),
            seed=self.config.seed,
            profile=self.profile,
        )

    def moco_start(self) -> Path | None:
        """The encoder that `moco` goes on from; None for random weights."""
        return self._imagenet(self.config.moco.model) if self.config.moco.start == "imagenet" else None

    def probe(self, encoder: Path | None) -> Path:
        """What a linear probe of an encoder scores; None: of one with random weights."""
        return probe_encoder(
            self.store,
            encoder=encoder,
            network=self.config.moco,
            uncertainty=self.config.data.uncertainty,
            train=self.data.weak,
            splits=self._judging(),
            seed=self.config.seed,
        )

    def segmentation(self) -> Made:
        """Everything that leads to a segmentation's scores."""
        config, data = self.config, self.data
        train_rows, validation_rows = split_expert(
            Prepared.load(data.expert).shown(), share=config.data.validation_share, seed=config.split_seed
        )
        judged = {}
        encoder = self._encoder()
        if config.init in ("chexpert", "moco"):
            judged[encoder] = self.auroc(encoder) if config.init == "chexpert" else self.probe(encoder)
        pseudo, maps, walkers = None, [], []
        if config.p < 1:
            saliency = self.classifier(config.classifier)
            judged = {saliency: self.auroc(saliency), **judged}
            pseudo, maps, walkers = self._pseudo_masks(saliency, train_rows)

        def train(masks: Path | None, start: Path | None) -> Path:
            return train_segmentation(
                self.store,
                config.segmentation,
                p=config.p,
                expert=data.expert,
                train_rows=train_rows,
                validation_rows=validation_rows,
                pseudo=masks,
                start=start,
                seed=config.seed + config.trial,
                profile=self.profile,
            )

        models, refreshed = [train(pseudo, encoder)], []
        for _ in range(config.refreshes if pseudo else 0):
            masks = refresh_pseudo_masks(
                self.store,
                model=models[-1],
                pseudo=(pseudo, *refreshed)[-1],
                uncertainty=config.data.uncertainty,
                gate=config.pseudo_masks.gate,
            )
            refreshed.append(masks)
            models.append(train(masks, models[-1]))
        model = models[-1]
        scores = score_segmentation(
            self.store,
            config.scores,
            model=model,
            test=data.test,
            truth=data.sources.test.segmentations,
            second_reader=data.sources.second_reader,
            expert=data.expert,
            train_rows=train_rows,
            pseudo=pseudo,
        )
        return Made(judged, (*judged, *walkers, *models), maps, pseudo, refreshed, model, scores)

    def _encoder(self) -> Path | None:
        match self.config.init:
            case "chexpert":
                return self.classifier(self.config.encoder)
            case "moco":
                return self.moco()
            case "imagenet":
                return self._imagenet(self.config.encoder.model)
            case "random":
                return None

    def _imagenet(self, model: str) -> Path:
        return import_imagenet(self.store, self.config.imagenet, model=model, size=self.config.data.size)

    def _judging(self) -> dict[str, Path]:
        return {"valid": self.data.expert, "test": self.data.test}

    def _pseudo_masks(self, saliency: Path, train_rows: Sequence[int]) -> tuple[Path, list[Path], list[Path]]:
        """The pseudo-masks; the maps that they came from, first to last; what was trained on the way."""
        config, data = self.config, self.data
        rows = choose_pseudo_set(
            Prepared.load(data.weak),
            count=config.pseudo_count,
            uncertainty=config.data.uncertainty,
            seed=config.seed + config.trial,
        )
        sets = {"weak": (data.weak, rows), "expert": (data.expert, train_rows)}
        maps = {
            name: make_cams(self.store, config.cams, classifier=saliency, images=images, rows=rows)
            for name, (images, rows) in sets.items()
        }
        shown, walkers = [maps["weak"]], []
        if config.pseudo == "irnet":
            if config.trunk_init == "imagenet":
                trunk = self._imagenet("resnet50")
            else:
                trunk = self.classifier(config.trunk)
                walkers.append(trunk)
            network = train_irnet(
                self.store,
                config.irnet,
                uncertainty=config.data.uncertainty,
                trunk=trunk,
                images=data.weak,
                rows=rows,
                maps=maps["weak"],
                seed=config.seed,
                profile=self.profile,
            )
            walkers.append(network)
            maps = {
                name: walk_maps(
                    self.store, config.walk, network=network, images=images, rows=rows, maps=maps[name]
                )
                for name, (images, rows) in sets.items()
            }
            shown.append(maps["weak"])
        pseudo = make_pseudo_masks(
            self.store,
            config.pseudo_masks,
            uncertainty=config.data.uncertainty,
            weak=data.weak,
            weak_rows=rows,
            weak_maps=maps["weak"],
            expert=data.expert,
            expert_rows=train_rows,
            expert_maps=maps["expert"],
        )
        return pseudo, shown, walkers

"""One run: the chain of stages behind a configuration, from radiographs to a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from chexseg_jax.artifact import Store
from chexseg_jax.data.chexpert import parse_policy
from chexseg_jax.data.layout import check_layout
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.split import Split, split_expert
from chexseg_jax.errors import InputError
from chexseg_jax.models.torch_weights.files import read_card
from chexseg_jax.processes import be_deterministic, on_first
from chexseg_jax.progress import say
from chexseg_jax.pseudo import LABELLERS, Images
from chexseg_jax.report.runs import Made, report_classifier, report_moco, report_segmentation
from chexseg_jax.settings import check, imagenet_networks, trainings
from chexseg_jax.sources import Sources, open_sources
from chexseg_jax.stages.classifier import score_classifier, train_classifier
from chexseg_jax.stages.imagenet import check_one_file, find_weights, import_imagenet, require_weights
from chexseg_jax.stages.imported import find_model, find_name, import_model
from chexseg_jax.stages.moco import check_groups, pretrain_moco, probe_encoder
from chexseg_jax.stages.prepare import changed_images, prepare
from chexseg_jax.stages.pseudo_masks import draw_positives, draw_pseudo_set, make_pseudo_masks
from chexseg_jax.stages.scores import score_segmentation
from chexseg_jax.stages.segmentation import resolve, train_segmentation
from chexseg_jax.streams import stream
from chexseg_jax.training.profiling import Profile
from chexseg_jax.training.sharding import check_divides, data_mesh

#: Settings that do not change results.
_APART = ("profile", "skip_steps", "shard", "deterministic")
#: Kinds that need no masks, and so CheXpert without CheXlocalize.
_LABELS_ALONE = ("classifier", "moco")


def run(config: ConfigDict, workdir: Path) -> Path:
    """Run a configuration of kind classifier, moco or segmentation; finished stages are reused.

    All processes of a run call this, on one file system: they share trainings and passes over whole sets, and the
    first process does the rest.

    Args:
      config: made by a file of `configs/`.
      workdir: receives `artifacts/` (one folder a stage) and `runs/` (one folder a configuration, with the report).

    Returns:
      The run's folder, with `report.md` and `report.html`.
    """
    one = Run.open(config, workdir)
    config, sources = one.config, one.data.sources
    match config.kind:
        case "classifier":
            trained = one.classifier("classifier")
            return on_first(report_classifier, workdir, config, sources, trained, one.auroc(trained))
        case "moco":
            trained, start = one.moco(), one.moco_start()
            probes = {"MoCo": one.probe(trained), "random weights": one.probe(None)}
            if start:
                probes["ImageNet, its start"] = one.probe(start)
            return on_first(report_moco, workdir, config, sources, trained, probes)
        case "segmentation":
            on_first(one.plan)  # missing inputs fail here, not after hours
            made = one.segmentation()
            return on_first(report_segmentation, workdir, config, sources, test=one.data.test, made=made)
    raise InputError(f"config.kind={config.kind!r} must be one of classifier, moco, segmentation")


def _import(store: Store, source: str) -> Path:
    """A network trained elsewhere."""
    find = partial(find_model, source)
    return store.make("imported", import_model, source=find() if store.planning else on_first(find))


@dataclass(frozen=True)
class Data:
    """The prepared radiographs, shared by all runs on them.

    Attributes:
      sources: their origin.
      weak, expert, test: artifacts of `prepare`; test is None where classifiers or MoCo have no test images.
      validation, split_seed: of the split of all expert images, see `split_expert`.
    """

    sources: Sources
    weak: Path
    expert: Path
    test: Path | None
    validation: float
    split_seed: int

    @classmethod
    def open(cls, store: Store, config: ConfigDict) -> "Data":
        """Open, or make and prepare, the data of a configuration."""
        sources = open_sources(store, config, labels_alone=config.kind in _LABELS_ALONE)
        parse_policy(config.data.uncertainty, sources.taxonomy)
        settings = ConfigDict({key: config.data[key] for key in ("size", "views", "max_missing")})

        def prepared(split: Split) -> Path:
            make = partial(store.make, f"prepare-{split.name}", prepare, version=3, collective=True)
            first = make(config=settings, split=split)
            look = partial(changed_images, first, split, note=not store.planning)
            changed = on_first(look) if first.is_dir() else None  # else only planned
            return make(config=settings, split=split, changed=changed) if changed else first

        weak, expert = prepared(sources.train), prepared(sources.valid)
        test = prepared(sources.test) if sources.test else None
        return cls(sources, weak, expert, test, config.data.validation, config.split_seed)

    @cached_property
    def listed(self) -> Int[np.ndarray, " N"]:
        """The rows of the expert images that the segmentations file lists."""
        return np.flatnonzero(Prepared.load(self.expert).listed)

    def split(self, rows: Int[np.ndarray, " M"]) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " V"]]:
        """The training and the validation rows among all listed expert images, or among some of them.

        A number of validation images (`validation` >= 1) is that of all images; some have the same share, at least one.
        """
        some, studies = Prepared.load(self.expert).take(rows), self.sources.valid.studies
        patients = dict(zip(studies.ids, studies.patients, strict=True))
        wanted, number = self.validation, len(self.listed)
        wanted = max(wanted / number, 1 / len(rows)) if 1 <= wanted < number != len(rows) else wanted
        train, validation = split_expert(
            some.has_mask(),
            [patients[image_id] for image_id in some.ids],
            [some.taxonomy.tasks.index(task) for task in some.taxonomy.common],
            validation=wanted,
            seed=self.split_seed,
        )
        return rows[train], rows[validation]


@dataclass(frozen=True)
class Run:
    """The stages of one configuration; each method returns an artifact, reused or made.

    Attributes:
      store: of artifacts.
      config: see `run`; without those that do not change results.
      data: the prepared radiographs.
      apart: what to profile in trainings, how many of their steps may be skipped, and the origin of the data.
    """

    store: Store
    config: ConfigDict
    data: Data
    apart: Mapping[str, Any]

    @classmethod
    def open(
        cls, config: ConfigDict, workdir: Path, runs: Sequence[ConfigDict] = (), *, planning: bool = False
    ) -> "Run":
        """Check the configuration and open the data; train nothing.

        Args:
          config, workdir: see `run`.
          runs: of a table, the configurations of its single runs.
          planning: only name the artifacts, also those of the data.

        Raises:
          InputError: see `settings.check`, `be_deterministic`, `open_sources` and `require_weights`.
        """
        check(config)
        if config.deterministic:  # `chexseg run` has done so already, a program of a user's may not
            be_deterministic()
        for name in trainings(config):  # else the last training would fail after hours
            check_divides(config[name].batch_size, data_mesh(), name=f"config.{name}.batch_size=")
        if "moco" in trainings(config):
            check_groups(config.moco.batch_size, data_mesh().size, config.moco.norm_group)
        if config.root:
            check_layout(config.root, labels_alone=config.kind in _LABELS_ALONE)
        needs = [imagenet_networks(one) for one in runs or [config]]
        on_first(require_weights, config.imagenet.weights, needs)
        profile = Profile.parse(**config.profile)
        apart = {"profile": profile, "skip_steps": config.skip_steps}
        own = config.copy_and_resolve_references().items()
        config = ConfigDict({key: value for key, value in own if key not in _APART})
        where = config.root or "the phantom (synthetic radiographs, made here)"
        say(f"{config.name}: {config.scale} scale on {where}")
        if profile != Profile():
            say("profile: applies to trainings that are still to run; finished ones are not traced")
        store = Store(workdir / "artifacts")
        store = store.plan() if planning else store
        data = Data.open(store, config)
        apart["provenance"] = data.sources.provenance(config.data)
        for section, source in config.imported.items():
            if source:
                card = read_card(_import(store, source) / "model.json")  # {} of one that is only planned
                config[section].model = card["name"] if card else find_name(find_model(source))
        return cls(store, config, data, apart)

    def classifier(self, section: str) -> Path:
        """The classifier of a section of the configuration, trained on the weak labels or imported."""
        if source := self.config.imported.get(section):
            return _import(self.store, source)
        config = self.config[section]
        return self.store.make(
            f"classifier-{config.model}",
            train_classifier,
            collective=True,
            apart=self.apart,
            config=config,
            uncertainty=self.config.data.uncertainty,
            weak=self.data.weak,
            expert=self.data.expert,
            start=self.imagenet(config.model) if config.start == "imagenet" else None,
            seed=stream(self.config.seed, "classifier", config.model),
        )

    def auroc(self, classifier: Path) -> Path:
        """A classifier's scores."""
        return self.store.make("auroc", score_classifier, classifier=classifier, splits=self._judges)

    def imagenet(self, model: str) -> Path:
        """A network trained on ImageNet."""
        config = self.config.imagenet
        find = partial(find_weights, config.weights, model)
        return self.store.make(
            f"imagenet-{model}",
            import_imagenet,
            model=model,
            weights=find() if self.store.planning else on_first(find),
            stride_on=config.stride_on,
            size=self.config.data.size,
        )

    def moco(self) -> Path:
        """An encoder trained without labels."""
        model = self.config.encoder.model
        return self.store.make(
            f"moco-{model}",
            pretrain_moco,
            collective=True,
            apart=self.apart,
            config=self.config.moco,
            model=model,
            images=self.data.weak,
            start=self.moco_start(),
            seed=stream(self.config.seed, "moco"),
        )

    def moco_start(self) -> Path | None:
        """The encoder that MoCo starts from; None for random weights."""
        return self.imagenet(self.config.encoder.model) if self.config.moco.start == "imagenet" else None

    def probe(self, encoder: Path | None) -> Path:
        """The linear-probe scores of an encoder, or of random weights."""
        config = self.config
        model, seed = config.encoder.model, stream(config.seed, "probe")
        random = {"model": model, "options": config.moco.options, "seed": seed}
        return self.store.make(
            "probe",
            probe_encoder,
            version=2,
            encoder=encoder,
            random=None if encoder else ConfigDict(random),
            uncertainty=config.data.uncertainty,
            train=self.data.weak,
            splits=self._judges,
        )

    def positives(self, count: int) -> Images:
        """So many weak images with a positive label, drawn at random (0: all); each draw contains the smaller ones."""
        rows = draw_positives(
            Prepared.load(self.data.weak),
            count=count,
            uncertainty=self.config.data.uncertainty,
            seed=stream(self.config.seed, "positives"),
        )
        return Images(self.data.weak, rows)

    def plan(self) -> Made:
        """Name the artifacts of `segmentation` without making any; for one process to call alone.

        Raises:
          InputError: for a missing input, such as ImageNet's weights.
        """
        check_one_file(self.config.imagenet.weights, [imagenet_networks(self.config)])
        return replace(self, store=self.store.plan()).segmentation()

    @cached_property
    def expert_rows(self) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " V"]]:
        """The training and the validation rows of the expert images: of all, or of those that this trial has."""
        listed, number = self.data.listed, self.config.experts
        if number > len(listed):
            raise InputError(
                f"config.experts={number}: only {len(listed)} images have expert masks; give fewer, or 0 for all"
            )
        if number:  # the draws of a trial are nested: a smaller number is a part of a larger one
            seed = stream(self.config.seed, "experts", self.config.trial)
            listed = np.sort(np.random.default_rng(seed).permutation(listed)[:number])
        return self.data.split(listed)

    def segmentation(self) -> Made:
        """All artifacts that lead to a segmentation's scores."""
        config, data = self.config, self.data
        judged: dict[Path, Path] = {}
        if config.p < 1:  # before the encoder's hours: an imported classifier may speak for no task
            classifier = self.classifier("classifier")
            judged[classifier] = self.auroc(classifier)
            pseudo, steps, trainings = self._pseudo_masks(classifier)
        else:
            pseudo, steps, trainings = None, {}, ()
        start = self._encoder()
        if start and start not in judged and config.init != "imagenet":
            judged[start] = self.auroc(start) if config.init == "chexpert" else self.probe(start)
        model = self._train(pseudo, start)
        scores = self.store.make(
            "scores",
            score_segmentation,
            version=2,
            batch_size=config.scores.batch_size,
            model=model,
            test=data.test,
            split=data.sources.test,
            expert=data.expert,
            train_rows=self.expert_rows[0],
            pseudo=pseudo,
        )
        imported = [_import(self.store, source) for source in config.imported.values() if source]
        trained = [path for path in (*judged, *trainings) if path not in imported]
        return Made(judged, (*trained, model), steps, pseudo, model, scores)

    @property
    def _judges(self) -> dict[str, Path]:
        return {"valid": self.data.expert, **({"test": self.data.test} if self.data.test else {})}

    def _encoder(self) -> Path | None:
        match self.config.init:
            case "chexpert" | "imported":
                return self.classifier("encoder")
            case "moco":
                return self.moco()
            case "imagenet":
                return self.imagenet(self.config.encoder.model)
        return None

    def _pseudo_masks(self, classifier: Path) -> tuple[Path, dict[str, Path], tuple[Path, ...]]:
        """The pseudo-masks, the maps that led to them by title, and the networks trained on the way."""
        config, data = self.config, self.data
        labeller = LABELLERS[config.pseudo]
        sets = {"weak": self._pseudo_set(), "expert": Images(data.expert, self.expert_rows[0])}
        threshold = labeller.parse_threshold(config.pseudo_masks.threshold)
        saliency = labeller.maps(self, classifier, sets)
        imported: dict[str, Any] = {"imported": classifier} if config.imported.classifier else {}
        pseudo = self.store.make(
            "pseudo-masks",
            make_pseudo_masks,
            version=4,
            collective=True,
            threshold=threshold,
            gate=config.pseudo_masks.gate,
            degenerate=config.pseudo_masks.degenerate,
            uncertainty=config.data.uncertainty,
            weak=data.weak,
            weak_rows=sets["weak"].rows,
            weak_maps=saliency.maps["weak"],
            expert=data.expert,
            expert_rows=self.expert_rows[0],
            expert_maps=saliency.maps["expert"],
            **imported,
        )
        return pseudo, dict(saliency.steps), tuple(saliency.trainings)

    def _pseudo_set(self) -> Images:
        """The weak images of this trial: of those that an IRNet trains on, if there are enough."""
        count, pool = self.config.pseudo_count, self.config.irnet.count
        weak, positives = self.positives(max(count, pool) if pool else 0)
        seed = stream(self.config.seed, "pseudo-masks", self.config.trial)
        return Images(weak, draw_pseudo_set(positives, count=count, seed=seed))

    def _train(self, pseudo: Path | None, start: Path | None) -> Path:
        config, (train_rows, validation_rows) = self.config, self.expert_rows
        images = len(train_rows) * (config.p > 0) + config.pseudo_count * (config.p < 1)
        both = len(train_rows) + config.pseudo_count
        return self.store.make(
            "segmentation",
            train_segmentation,
            collective=True,
            apart=self.apart,
            config=resolve(
                config.segmentation, images=images, epoch=both if config.clock == "steps" else images
            ),
            encoder=config.encoder.model,
            p=config.p,
            expert=self.data.expert,
            train_rows=train_rows,
            validation_rows=validation_rows,
            pseudo=pseudo,
            start=start,
            seed=stream(config.seed, "segmentation", config.trial),
        )

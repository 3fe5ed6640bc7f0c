"""The chain of stages behind a configuration, from radiographs to a report."""

from pathlib import Path

from ml_collections import ConfigDict

from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.split import split_expert
from chexseg_jax.progress import say
from chexseg_jax.stages.cams import make_cams
from chexseg_jax.stages.classifier import score_classifier, train_classifier
from chexseg_jax.stages.imagenet import import_imagenet
from chexseg_jax.stages.irnet import train_irnet, walk_maps
from chexseg_jax.stages.moco import pretrain_moco, probe_encoder
from chexseg_jax.stages.prepare import prepare
from chexseg_jax.stages.pseudo_masks import choose_pseudo_set, make_pseudo_masks
from chexseg_jax.stages.report import write_classifier_report, write_moco_report, write_report
from chexseg_jax.stages.scores import score_segmentation
from chexseg_jax.stages.segmentation import train_segmentation
from chexseg_jax.stages.sources import open_sources
from chexseg_jax.training.distributed import on_first
from chexseg_jax.training.profiling import Profile


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
    profile = Profile.parse(**config.profile)
    config = ConfigDict({key: value for key, value in config.items() if key != "profile"})  # names no run
    store = workdir / "artifacts"
    where = config.root or "the phantom (synthetic radiographs, made here)"
    say(f"{config.name}: {config.scale} scale on {where}")
    if profile != Profile():
        say("profile: of each training that is still to do; one that is found finished is not traced")
    sources = open_sources(store, config)
    weak, expert, test = (
        prepare(store, config.data, split) for split in (sources.train, sources.valid, sources.test)
    )

    def classifier(settings: ConfigDict) -> Path:
        return train_classifier(
            store,
            settings,
            uncertainty=config.data.uncertainty,
            weak=weak,
            expert=expert,
            seed=config.seed,
            profile=profile,
        )

    def auroc(trained: Path) -> Path:
        return score_classifier(store, classifier=trained, splits={"valid": expert, "test": test})

    def moco() -> Path:
        return pretrain_moco(store, config.moco, images=weak, seed=config.seed, profile=profile)

    def probe(encoder: Path | None) -> Path:
        return probe_encoder(
            store,
            encoder=encoder,
            network=config.moco,
            uncertainty=config.data.uncertainty,
            train=weak,
            splits={"valid": expert, "test": test},
            seed=config.seed,
        )

    def imagenet(model: str) -> Path:
        return import_imagenet(store, config.imagenet, model=model, size=config.data.size)

    if config.name == "moco":
        trained = moco()
        return on_first(write_moco_report, workdir, config, sources, trained, probe(trained), probe(None))
    if "segmentation" not in config:
        trained = classifier(config.classifier)
        return on_first(write_classifier_report, workdir, config, sources, trained, auroc(trained))

    train_rows, validation_rows = split_expert(
        Prepared.load(expert).shown(), share=config.data.validation_share, seed=config.split_seed
    )
    judged: dict[Path, Path] = {}
    match config.init:
        case "chexpert":
            encoder = classifier(config.encoder)
            judged[encoder] = auroc(encoder)
        case "moco":
            encoder = moco()
            judged[encoder] = probe(encoder)
        case "imagenet":
            encoder = imagenet(config.encoder.model)
        case "random":
            encoder = None
    pseudo = None
    shown, walkers = [], []
    if config.p < 1:
        saliency = classifier(config.classifier)
        judged = {saliency: auroc(saliency), **judged}
        weak_rows = choose_pseudo_set(
            Prepared.load(weak),
            count=config.pseudo_count,
            uncertainty=config.data.uncertainty,
            seed=config.seed,
        )
        sets = {"weak": (weak, weak_rows), "expert": (expert, train_rows)}
        maps = {
            name: make_cams(store, config.cams, classifier=saliency, images=images, rows=rows)
            for name, (images, rows) in sets.items()
        }
        shown = [maps["weak"]]
        if config.pseudo == "irnet":
            if config.trunk_init == "imagenet":
                trunk = imagenet("resnet50")
            else:
                trunk = classifier(config.trunk)
                walkers.append(trunk)
            network = train_irnet(
                store,
                config.irnet,
                uncertainty=config.data.uncertainty,
                trunk=trunk,
                images=weak,
                rows=weak_rows,
                maps=maps["weak"],
                seed=config.seed,
                profile=profile,
            )
            walkers.append(network)
            maps = {
                name: walk_maps(
                    store, config.walk, network=network, images=images, rows=rows, maps=maps[name]
                )
                for name, (images, rows) in sets.items()
            }
            shown.append(maps["weak"])
        pseudo = make_pseudo_masks(
            store,
            config.pseudo_masks,
            uncertainty=config.data.uncertainty,
            weak=weak,
            weak_rows=weak_rows,
            weak_maps=maps["weak"],
            expert=expert,
            expert_rows=train_rows,
            expert_maps=maps["expert"],
        )
    model = train_segmentation(
        store,
        config.segmentation,
        p=config.p,
        expert=expert,
        train_rows=train_rows,
        validation_rows=validation_rows,
        pseudo=pseudo,
        encoder=encoder,
        seed=config.seed,
        profile=profile,
    )
    scores = score_segmentation(
        store,
        config.scores,
        model=model,
        test=test,
        truth=sources.test.segmentations,
        second_reader=sources.second_reader,
        expert=expert,
        train_rows=train_rows,
        pseudo=pseudo,
    )
    return on_first(
        write_report,
        workdir,
        config,
        sources,
        classifiers=judged,
        trainings=[*judged, *walkers, model],
        test=test,
        saliency=shown,
        pseudo=pseudo,
        model=model,
        scores=scores,
    )

"""What a reader of scores has to know of a run's protocol: the weights that it started from, and its clock."""

from ml_collections import ConfigDict

_STARTS = {"imagenet": "ImageNet", "random": "random weights", "chexpert": "a classifier trained here"}


def describe_protocol(config: ConfigDict) -> str:
    """One paragraph for the report of a run or of a table."""
    table = config.kind not in ("classifier", "moco", "segmentation")
    inits = tuple(config.grid.init) if table else (config.init,) if config.kind == "segmentation" else ()
    labellers = tuple(config.grid.pseudo) if table else tuple(filter(None, (config.pseudo,)))
    starts = {}
    if labellers or config.kind == "classifier":
        starts["the saliency classifier"] = _start(config, "classifier")
    if "chexpert" in inits:
        starts["the CheXpert encoder"] = _STARTS[config.encoder.start]
    if "imported" in inits:
        starts["the encoder"] = _start(config, "encoder")
    if "moco" in inits or config.kind == "moco":
        starts["MoCo"] = _STARTS[config.moco.start]
    if "irnet" in labellers:
        starts["IRNet's trunk"] = _STARTS[config.trunk_init]
    parts = [f"{name} from {start}" for name, start in starts.items()]
    text = f"Starts: {', '.join(parts)}." if parts else ""
    return f"{text} {describe_clock(config)}".strip() if inits else text


def _start(config: ConfigDict, section: str) -> str:
    if source := config.imported[section]:
        return f"`{source}`, an imported {config[section].model}"
    return _STARTS[config[section].start]


def describe_clock(config: ConfigDict) -> str:
    """How long the segmentations train."""
    one = config.segmentation
    if one.steps:
        return (
            f"Clock: {one.steps} updates for each segmentation, whatever its images (`segmentation.steps`)."
        )
    if config.clock == "steps":
        masks = f"{config.pseudo_count} pseudo-masks"
        return f"Clock: as many updates as a mixture with {masks} has in {one.epochs:g} epochs."
    return (
        f"Clock: {one.epochs:g} epochs of each segmentation's expert and pseudo-masked images together, the published "
        "rule, so models with more images have more updates (`segmentation.epochs`)."
    )

"""Tables as many runs: the stages that they share, and runs that fail."""

import json
import re
import shutil
import sys
from collections import Counter
from dataclasses import replace

import pytest
from ml_collections import ConfigDict

from chexseg_jax import sweep
from chexseg_jax.artifact import verify
from chexseg_jax.errors import DamagedError, InputError, PartlyDoneError
from chexseg_jax.experiment import Run
from chexseg_jax.settings import Setting, Trial, trials
from chexseg_jax.stages import imagenet
from configs import semi, table1, table2, weak


def test_table_1_is_the_papers_grid():
    config = table1.get_config("scale=paper")
    planned = trials(config)
    assert len(planned) == len(set(planned)) == 3 * (7 * 2 + 1 + 2 + 3)  # and p = 0, 0 and 1 at equal steps
    assert {trial.setting.p for trial in planned} == {0, 0.2, 0.4, 0.6, 0.8, 0.85, 0.9, 1}
    assert {trial.setting.count for trial in planned} == {0, 100, 20000}
    assert {trial.number for trial in planned} == {0, 1, 2}


def test_table_2_is_the_papers_grid():
    planned = trials(table2.get_config("scale=paper"))
    assert len(planned) == len(set(planned)) == 3 * 4 * (2 * 3 + 1)
    full = {trial.setting for trial in planned if trial.setting.p == 1}
    assert full == {Setting(1.0, init, "", 0) for init in ("chexpert", "moco", "imagenet", "random")}
    assert {trial.setting.p for trial in planned} == {0, 1}


def test_a_run_of_a_table_is_the_run_of_its_own_config():
    own = semi.get_config("p=0.2,pseudo=irnet,trial=2,scale=paper")
    trial = Trial(Setting(0.2, "chexpert", "irnet", 100), 2)
    assert trial.config(table1.get_config("scale=paper")) == of_table(own, table1.get_config("scale=paper"))
    own = weak.get_config("init=moco,count=2000,scale=paper")
    trial = Trial(Setting(0.0, "moco", "cam", 2000), 0)
    assert trial.config(table2.get_config("scale=paper")) == of_table(own, table2.get_config("scale=paper"))


def of_table(config, table):
    """A single run's configuration with the table's name and grid, which name no stage."""
    return ConfigDict(config.to_dict() | {key: table[key] for key in ("name", "grid", "weak_count")})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("p", (0.5, 1.2), "must be probabilities in [0, 1]"),
        ("init", ("chexpert", "random"), "table1 needs exactly one value"),
        ("init", ("chexnet",), "config.grid.init='chexnet' must be one of random, imagenet"),
        ("pseudo", (), "needs at least one value"),
        ("count", (0,), "at least 1"),
        ("experts", (40,), "table1 has (0,); label_efficiency takes other values"),
    ],
)
def test_a_wrong_grid_is_refused(key, value, message):
    config = table1.get_config("")
    config.grid[key] = value
    with pytest.raises(InputError) as error:
        trials(config)
    assert message in str(error.value)


@pytest.mark.parametrize("p", [(), (1.0,), (0.0, 0.9), (0.0, 0.9, 1.0)])
def test_table_2_has_one_p_below_1(p):
    config = table2.get_config("")
    config.grid.p = p
    with pytest.raises(InputError, match=r"config.grid.p=\(.*\): table2 needs (exactly one|at least one)"):
        trials(config)


def test_table_2_is_on_the_papers_clock():
    config = table2.get_config("")
    config.grid.clock = ("steps",)
    with pytest.raises(InputError, match="table2 has \\('epochs',\\); table1 or label_efficiency takes"):
        trials(config)


@pytest.mark.parametrize("text", ["1", "0/2", "3/2", "a/b", "1/", "-1/2", "1/2/3"])
def test_a_wrong_shard_is_refused(text):
    with pytest.raises(InputError, match="must be i/n"):
        sweep.of_shard(trials(table1.get_config()), text)


def test_shards_take_equally_long():
    config = table2.get_config()
    config.grid.count = (100, 300)  # the innermost list: every second run would be of one count
    planned = trials(config)
    shards = [sweep.of_shard(planned, f"{index}/2") for index in (1, 2)]
    assert sorted(shards[0] + shards[1]) == sorted(planned)
    assert shards[0] == [trial for trial in planned if trial in set(shards[0])]
    masks = [Counter(trial.setting.count for trial in shard) for shard in shards]
    assert masks[0].keys() == masks[1].keys() >= {0, 100, 300}
    assert all(abs(masks[0][count] - masks[1][count]) <= 1 for count in masks[0])


@pytest.fixture(scope="module")
def config(tiny_config):
    """Table 1 with p in {.9, 1} and Grad-CAMs, of the sizes of `tiny_config`, so that it reuses its artifacts."""
    config = shrunk(table1.get_config("smoke"), tiny_config)
    config.grid.p = (0.9, 1.0)
    return config


def shrunk(config, tiny_config):
    with config.unlocked():
        for section in ("phantom", "data", "classifier", "encoder", "segmentation", "scores"):
            config[section] = tiny_config[section]
    config.grid.update(pseudo=("cam",), count=(6,), clock=("epochs",))
    config.update(weak_count=0, trials=2)
    return config


@pytest.fixture(scope="module")
def table(config, tiny_run):
    """(work directory, the finished table's folder)."""
    workdir, _ = tiny_run
    return workdir, sweep.run(config, workdir)


def test_runs_share_stages(table, config):
    workdir, folder = table
    scores = {path.name for path in (workdir / "artifacts").glob("scores-*")}
    finished = sweep.finished_runs(Run.open(config, workdir), trials(config))
    assert set(finished) == set(trials(config))
    assert len({made.scores.name for made in finished.values()} & scores) == 4
    assert len(list((workdir / "artifacts").glob("classifier-*"))) == 1
    for name in (
        "report.html",
        "tables/table1.md",
        "figures/fig2.png",
        "figures/fig4.png",
        "figures/fig5.pdf",
    ):
        assert (folder / name).stat().st_size > 0


def test_trials_have_pseudo_sets_of_their_own(table, config):
    workdir, _ = table
    chosen = [
        json.loads((made.pseudo / "ids.json").read_text())
        for trial, made in sweep.finished_runs(Run.open(config, workdir), trials(config)).items()
        if trial.setting.p < 1
    ]
    assert len(chosen) == 2
    assert chosen[0] != chosen[1]


@pytest.fixture
def stub(table, monkeypatch):
    """Replaces the work of a run: it records the run, may fail, and copies another run's results."""
    workdir, _ = table
    (scored, *_) = (workdir / "artifacts").glob("scores-*")
    started, failures, segmentation = [], {}, Run.segmentation

    def stubbed(self):
        made = segmentation(replace(self, store=self.store.plan()))
        if not self.store.planning:
            started.append((self.config.p, self.config.trial))
            if error := failures.get(started[-1]):
                raise error
            made.model.mkdir()
            shutil.copytree(scored, made.scores)
        return made

    monkeypatch.setattr(Run, "segmentation", stubbed)
    return started, failures


def test_a_finished_table_makes_nothing_again(table, config, stub):
    workdir, folder = table
    started, _ = stub
    page = (folder / "report.html").read_bytes()
    assert sweep.run(config, workdir) == folder
    assert not started
    assert (folder / "report.html").read_bytes() == page


@pytest.mark.usefixtures("undrawn")
def test_a_failed_run_is_named_and_the_others_complete(table, config, stub, capsys):
    workdir, _ = table
    started, failures = stub
    failures.update({(1, 0): InputError("no such weights"), (1, 1): ZeroDivisionError("ours")})
    config = config.copy_and_resolve_references()
    config.seed = 1  # another table
    with pytest.raises(
        PartlyDoneError, match="2 of 4 runs failed: p=1,chexpert,trial=0: no such weights; p=1,chexpert,tr"
    ):
        sweep.run(config, workdir)
    assert "ZeroDivisionError" in capsys.readouterr().err
    (folder,) = (workdir / "runs").glob("table1,seed=1*")
    assert "(no such weights): p=1,chexpert,trial=0." in (folder / "tables" / "table1.md").read_text()
    assert len(started) == 4
    # A shard without failed runs of its own reports them, too.
    whole, config.shard = config.shard, "3/4"
    sweep.run(config, workdir)
    assert "(no such weights): p=1,chexpert,trial=0." in (folder / "tables" / "table1.md").read_text()
    config.shard = whole

    started.clear()  # the same command retries the failed runs only
    failures.clear()
    sweep.run(config, workdir)
    assert started == [(1, 0), (1, 1)]
    assert not list((folder / "failed").iterdir())


@pytest.mark.usefixtures("undrawn")
def test_a_failed_run_that_another_command_finished_is_no_failure(table, config, stub):
    workdir, _ = table
    _, failures = stub
    failures[1, 0] = InputError("no such weights")
    config = config.copy_and_resolve_references()
    config.seed = 5
    with pytest.raises(PartlyDoneError, match="1 of 4 runs failed"):
        sweep.run(config, workdir)
    (folder,) = (workdir / "runs").glob("table1,seed=5*")
    (note,) = (folder / "failed").iterdir()
    failures.clear()
    (trial,) = (trial for trial in trials(config) if note.stem == trial.name)
    sweep._single(Run.open(config, workdir), trial).segmentation()
    sweep.run(config, workdir)
    assert not list((folder / "failed").iterdir())


@pytest.fixture
def without_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet, "torchvision_cache", lambda: tmp_path / "cache")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


@pytest.mark.usefixtures("undrawn")
def test_a_value_that_a_run_meets_late_fails_before_its_trainings(table, config, monkeypatch):
    workdir, _ = table
    classifier = Run.classifier

    def planned(self, section):
        assert self.store.planning, "a training starts"
        return classifier(self, section)

    monkeypatch.setattr(Run, "classifier", planned)
    config = config.copy_and_resolve_references()
    config.pseudo_masks.threshold = "tunned"
    config.grid.p = (0.9,)
    with pytest.raises(InputError, match=r"2 of 2 runs failed: .*must be labeller, tuned, otsu or a number"):
        sweep.run(config, workdir)


@pytest.mark.usefixtures("undrawn", "without_weights")
def test_runs_without_imagenets_weights_are_absent_and_the_table_succeeds(table, tiny_config, stub, capsys):
    workdir, _ = table
    started, failures = stub
    config = shrunk(table2.get_config("smoke"), tiny_config)
    config.grid.init = ("chexpert", "imagenet")
    folder = sweep.run(config, workdir)
    assert started == [(0, 0), (0, 1)]  # those of p = 1 are Table 1's
    last = capsys.readouterr().err.splitlines()[-1]
    reason = "no ImageNet weights of a tiny on this machine; give weights=FILE"
    assert f"Runs absent: 4 ({reason}" in last
    assert last.endswith("): p=0,cam,6,imagenet; p=1,imagenet")
    text = re.sub(" +", " ", (folder / "tables" / "table2.md").read_text())
    assert f"**Absent.** Runs absent: 4 ({reason}" in text
    assert "| ImageNet | 6 | absent | - |" in text
    assert "| ImageNet | absent | - |" in text
    assert "Runs missing" not in text
    assert reason in (folder / "report.html").read_text()
    assert len(list((folder / "absent").iterdir())) == 4

    failures[(1, 0)] = InputError("no such file")  # another run's failure still counts
    config.seed = 4
    with pytest.raises(InputError, match=r"^1 of 8 runs failed: p=1,chexpert,trial=0: no such file$"):
        sweep.run(config, workdir)


@pytest.mark.usefixtures("without_weights")
def test_a_table_of_absent_runs_alone_stops_before_any_work(tiny_config, stub, tmp_path):
    config = shrunk(table2.get_config("smoke"), tiny_config)
    config.grid.init = ("imagenet",)
    with pytest.raises(InputError, match=r"^all 4 runs are absent: no ImageNet weights of a tiny"):
        sweep.run(config, tmp_path / "work")
    assert not (tmp_path / "work").exists()


@pytest.mark.usefixtures("without_weights")
def test_a_wrong_path_of_weights_stops_before_any_work(tiny_config, stub, tmp_path):
    config = shrunk(table2.get_config(f"smoke,weights={tmp_path / 'typo.pth'}"), tiny_config)
    config.grid.init = ("chexpert", "imagenet")
    with pytest.raises(InputError, match=r"typo.pth: no such file or folder"):
        sweep.run(config, tmp_path / "work")
    assert not (tmp_path / "work").exists()


@pytest.mark.usefixtures("undrawn")
def test_shards_do_all_runs_once(table, config, stub):
    workdir, _ = table
    started, _ = stub
    for shard, runs in {"2/3": 1, "1/3": 2, "3/3": 1}.items():
        config = config.copy_and_resolve_references()
        config.seed, config.shard, before = 2, shard, len(started)
        folder = sweep.run(config, workdir)
        assert len(started) == before + runs
    assert sorted(started) == [(0.9, 0), (0.9, 1), (1, 0), (1, 1)]
    assert "missing" not in (folder / "tables" / "table1.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_a_run_whose_results_are_gone_is_not_finished(table, config, stub):
    workdir, _ = table
    started, _ = stub
    config = config.copy_and_resolve_references()
    config.seed = 3
    sweep.run(config, workdir)
    finished = sweep.finished_runs(Run.open(config, workdir), trials(config))
    shutil.rmtree(finished[trials(config)[0]].scores)
    shutil.rmtree(finished[trials(config)[0]].model)
    started.clear()
    sweep.run(config, workdir)
    assert len(started) == 1


@pytest.mark.usefixtures("undrawn")
def test_scores_that_were_changed_are_refused_and_not_tabulated(table, config, stub):
    workdir, _ = table
    config = config.copy_and_resolve_references()
    config.seed = 4
    sweep.run(config, workdir)
    file = (
        sweep.finished_runs(Run.open(config, workdir), trials(config))[trials(config)[0]].scores
        / "counts.npz"
    )
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    verify.cache_clear()  # another process
    with pytest.raises(
        DamagedError, match=rf"{file}: missing, or not what was written; delete {file.parent}"
    ):
        sweep.run(config, workdir)

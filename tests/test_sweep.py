"""Tables as many runs: what they share, and what happens when one fails, or all are killed."""

import json

import pytest
from ml_collections import ConfigDict

from chexseg_jax import sweep
from chexseg_jax.errors import InputError
from chexseg_jax.experiment import Chain
from chexseg_jax.report.run import Made
from chexseg_jax.settings import Setting, Trial, single, trials
from configs import semi, table1, table2, weak


def test_table_1_is_the_papers_grid():
    config = table1.get_config("scale=paper")
    planned = trials(config)
    assert len(planned) == len(set(planned)) == 3 * (7 * 2 + 1 + 2)
    assert {trial.setting.p for trial in planned} == {0, 0.2, 0.4, 0.6, 0.8, 0.85, 0.9, 1}
    assert {trial.setting.count for trial in planned} == {0, 100, 20000}
    assert {trial.number for trial in planned} == {0, 1, 2}


def test_table_2_is_the_papers_grid():
    planned = trials(table2.get_config("scale=paper"))
    assert len(planned) == len(set(planned)) == 3 * 4 * 2 * 3
    assert {trial.setting.p for trial in planned} == {0}


def test_a_run_of_a_table_is_the_run_that_its_own_config_gives():
    own = semi.get_config("p=0.2,pseudo=irnet,trial=2,scale=paper")
    trial = Trial(Setting(0.2, "chexpert", "irnet", 100), 2)
    assert single(table1.get_config("scale=paper"), trial) == renamed(own, "table1")
    own = weak.get_config("init=moco,count=2000,scale=paper")
    trial = Trial(Setting(0.0, "moco", "cam", 2000), 0)
    assert single(table2.get_config("scale=paper"), trial) == renamed(own, "table2")


def renamed(config, name):
    return ConfigDict(config.to_dict() | {"name": name})


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("p", (0.5, 1.2), "within [0, 1]"),
        ("init", ("chexpert", "random"), "table1 needs one value"),
        ("init", ("chexnet",), "['chexnet'] is none of random, imagenet"),
        ("pseudo", (), "needs a value"),
        ("count", (0,), "begin at 1"),
    ],
)
def test_a_grid_that_makes_no_table_is_refused_before_anything_runs(key, value, told):
    config = table1.get_config("")
    config.grid[key] = value
    with pytest.raises(InputError) as error:
        trials(config)
    assert told in str(error.value)


@pytest.mark.parametrize("text", ["1", "0/2", "3/2", "a/b", "1/", "-1/2", "1/2/3"])
def test_a_shard_that_is_none(text):
    with pytest.raises(InputError, match="is not i/n"):
        sweep.parse_shard(text)


@pytest.fixture(scope="module")
def config(tiny_config):
    """Table 1 with p in {.9, 1} and Grad-CAMs, of the sizes of `tiny_config`, so that its artifacts are found."""
    config = table1.get_config("smoke")
    with config.unlocked():
        for section in ("phantom", "data", "classifier", "encoder", "segmentation", "scores"):
            config[section] = tiny_config[section]
    config.grid.update(p=(0.9, 1.0), pseudo=("cam",), count=(6,))
    config.update(weak_count=0, trials=2)
    return config


@pytest.fixture(scope="module")
def table(config, tiny_run):
    """(work directory, the finished table's folder)."""
    workdir, _ = tiny_run
    return workdir, sweep.run(config, workdir)


def test_runs_share_stages_and_are_written_down(table, config):
    workdir, folder = table
    records = {path.stem: json.loads(path.read_text()) for path in (folder / "trials").iterdir()}
    assert set(records) == {trial.name for trial in trials(config)}
    assert len({record["artifacts"]["scores"] for record in records.values()}) == 4
    assert len(list((workdir / "artifacts").glob("classifier-*"))) == 1
    for name in (
        "report.html",
        "tables/table1.md",
        "figures/fig2.png",
        "figures/fig4.png",
        "figures/fig5.pdf",
    ):
        assert (folder / name).stat().st_size > 0


def test_trials_have_pseudo_sets_of_their_own(table):
    workdir, folder = table
    chosen = []
    for number in range(2):
        record = json.loads((folder / "trials" / f"p=0.9,cam,6,chexpert,trial={number}.json").read_text())
        model = workdir / "artifacts" / record["artifacts"]["model"]
        key = json.loads((model / "artifact.json").read_text())["key"]
        chosen.append(json.loads((workdir / "artifacts" / key["pseudo"] / "ids.json").read_text()))
    assert chosen[0] != chosen[1]


def test_a_finished_table_makes_nothing_again(table, config, monkeypatch):
    workdir, folder = table
    page = (folder / "report.html").read_bytes()
    monkeypatch.setattr(Chain, "segmentation", lambda self: pytest.fail("a finished run was started"))
    assert sweep.run(config, workdir) == folder
    assert (folder / "report.html").read_bytes() == page


def test_a_failed_run_is_named_and_the_others_stand(table, config, monkeypatch, capsys):
    workdir, _ = table
    config = config.copy_and_resolve_references()
    config.seed = 1  # another table
    (scored, *_) = (workdir / "artifacts").glob("scores-*")
    started = []

    def segmentation(self):
        started.append(self.config)
        if self.config.p == 1 and self.config.trial == 0:
            raise InputError("no such weights")
        if self.config.p == 1:
            raise ZeroDivisionError("ours")
        return made(scored)

    monkeypatch.setattr(Chain, "segmentation", segmentation)
    with pytest.raises(
        InputError, match="2 of 4 runs failed: p=1,chexpert,trial=0: no such weights; p=1,chexpert,tr"
    ):
        sweep.run(config, workdir)
    assert "ZeroDivisionError" in capsys.readouterr().err
    (folder,) = (workdir / "runs").glob("table1,seed=1*")
    text = (folder / "tables" / "table1.md").read_text()
    assert "(no such weights): p=1,chexpert,trial=0." in text
    assert len(list((folder / "trials").glob("*.json"))) == 2
    # A shard that had no share in it tells why, too.
    whole, config.shard = config.shard, "1/4"
    sweep.run(config, workdir)
    assert "(no such weights): p=1,chexpert,trial=0." in (folder / "tables" / "table1.md").read_text()
    config.shard = whole

    started.clear()  # the same command tries again what failed, and nothing else
    monkeypatch.setattr(Chain, "segmentation", lambda self: started.append(self.config) or made(scored))
    sweep.run(config, workdir)
    assert [one.p for one in started] == [1, 1]
    assert not list((folder / "trials").glob("*.failed.txt"))


def made(scores) -> Made:
    return Made({}, (), (), None, (), scores, scores)


def test_shards_do_all_runs_once(table, config, monkeypatch):
    workdir, _ = table
    (scored, *_) = (workdir / "artifacts").glob("scores-*")
    started = []
    monkeypatch.setattr(Chain, "segmentation", lambda self: started.append(self.config) or made(scored))
    for shard, runs in {"2/3": 1, "1/3": 2, "3/3": 1}.items():
        config = config.copy_and_resolve_references()
        config.seed, config.shard, before = 2, shard, len(started)
        folder = sweep.run(config, workdir)
        assert len(started) == before + runs
    assert sorted((one.p, one.trial) for one in started) == [(0.9, 0), (0.9, 1), (1, 0), (1, 1)]
    assert "missing" not in (folder / "tables" / "table1.md").read_text()


def test_a_record_whose_artifacts_are_gone_counts_for_nothing(tmp_path):
    trial = Trial(Setting(0.9, "chexpert", "cam", 100), 0)
    (tmp_path / "scores-1").mkdir()
    (tmp_path / "test-1").mkdir()
    record, data = {"test": "test-1", "scores": "scores-1"}, {"test": "test-1"}
    sweep.write_record(tmp_path, trial, record)
    assert sweep.read_record(tmp_path, trial, tmp_path, data) == record
    assert (
        sweep.read_record(tmp_path, trial, tmp_path, {"test": "test-2"}) is None
    )  # a file of it has changed
    (tmp_path / "scores-1").rmdir()
    assert sweep.read_record(tmp_path, trial, tmp_path, data) is None

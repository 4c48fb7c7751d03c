"""What a trial says: its log while it runs, after a kill, and the largest drop that it names."""

import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from processes import start_process, wait_until
from test_sweep import ROOT, SWEEP, run

from quantfair.datasets import DatasetSpec, load_dataset
from quantfair.orchestrator.trials.evaluation import LargestDrop, find_largest_drop
from quantfair.orchestrator.trials.log import TrialLog
from quantfair.results import MIN_RANKED, Store, WriteError

GROUPS = ("label", "group", "label*group")
SYNTHETIC = f"""
name = "drops"
seeds = [0]

[[experiments]]
dataset = {{name = "synthetic", task = "class", group_by = {list(GROUPS)}, test_share = 0.5, train_size = 300}}
model = {{name = "small_cnn", width = 8}}
train = {{epochs = 2, lr = 0.01}}

[[quant]]
method = "ptq"
bits = [4, 2]

[[quant]]
method = "qat"
bits = 4
epochs = 1
lr = 0.001
"""
DATA = DatasetSpec(name="synthetic", task="class", group_by=GROUPS, test_share=0.5, train_size=300)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Five trials on images of three groups, run inline."""
    folder = tmp_path_factory.mktemp("drops")
    (folder / "drops.toml").write_text(SYNTHETIC)
    words = ("sweep", str(folder / "drops.toml"), "--executor", "inline", "--store", str(folder / "store"))
    assert run(*words).exit_code == 0
    return Store.open(str(folder / "store"))


def test_the_largest_drop_is_that_of_the_table_over_all_groupings_of_the_trial(store: Store) -> None:
    table = store.read_table("paired_metrics").to_pandas().query("comparison == 'reference' and grouping in @GROUPS")
    dataset = load_dataset(DATA)
    checked = 0
    for row in store.read_table("trials").to_pylist():
        if row["method"] not in ("ptq", "qat"):
            continue
        predictions = store.read_predictions(row["trial_id"], "torch")
        reference = store.read_predictions(row["reference_trial_id"], "torch")["predicted"].to_numpy()
        drop = find_largest_drop(predictions, np.eye(len(dataset.class_names))[reference], dataset, GROUPS)
        ranked = table[(table["trial_id"] == row["trial_id"]) & (table["n"] >= MIN_RANKED)]
        assert set(ranked["grouping"]) >= {"label", "group"}
        expected = ranked.loc[ranked["drop_pp"].idxmax()]
        assert drop == (expected["drop_pp"], f"{expected['grouping']} {expected['group']}", expected["n"])
        assert f"largest drop vs the reference: {drop}\n" in Path(store.log_path(row["trial_id"])).read_text()
        checked += 1
    assert checked == 3


def test_groups_with_few_test_images_are_not_called_the_worst(store: Store) -> None:
    dataset = load_dataset(DATA)
    predictions = store.read_predictions(sorted(store.trial_ids())[0], "torch")
    few = predictions.filter(np.isin(predictions["sample_id"].to_numpy(), dataset.splits["test"][: MIN_RANKED - 1]))
    logits_NK = np.zeros((len(few), len(dataset.class_names)))
    assert find_largest_drop(few, logits_NK, dataset, ["label", "group"]) is None


def test_a_drop_reads_as_a_sentence_ends() -> None:
    assert str(LargestDrop(3.0625, "ethnicity Others", 812)) == "3.1 pp for ethnicity Others, n = 812"


def test_a_log_says_which_trial_ran_where_and_with_what_and_stamps_every_line(store: Store) -> None:
    for row in store.read_table("trials").to_pylist():
        head, place, versions, *lines = Path(store.log_path(row["trial_id"])).read_text().splitlines()
        assert re.fullmatch(rf"{row['method']} .*seed 0 \(config \w{{6}}\)  {row['trial_id']}", head)
        assert re.fullmatch(r"host \S+, pid \d+, since \S+\+00:00, cpu, 1 threads", place)
        assert re.match(r"code \S+, engine_version \d+, python \d+\.\d+.*, torch \d+\.\d+", versions)
        assert lines
        assert all(re.match(r" *\d+\.\d\d s  ", line) for line in lines)
        assert re.search(r"s  ok after \d+\.\d\d s$", lines[-1])


def test_a_log_is_written_at_the_start_while_it_grows_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantfair.orchestrator.trials.log.WRITE_EVERY_S", 0.02)
    written: list[str] = []
    journal = TrialLog(print, ["head"])
    with journal.flushed_to(written.append):
        assert written == ["head\n"]
        time.sleep(0.1)
        assert len(written) == 1  # nothing was said
        journal.say("calibrates")
        while len(written) == 1:
            time.sleep(0.01)
        assert re.fullmatch(r"head\n +0\.\d\d s  calibrates\n", written[-1])
        for _ in range(1000):
            journal.say("much")
    assert written[-1].count("much") == 1000
    assert len(written) < 20


def test_warnings_of_a_trial_go_to_its_log_and_nowhere_else(recwarn: pytest.WarningsRecorder) -> None:
    journal, shown = TrialLog(print), warnings.showwarning
    with journal.flushed_to(lambda text: None), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("lr_scheduler.step() before optimizer.step()", stacklevel=1)
    assert not list(recwarn)
    assert warnings.showwarning is shown
    assert re.search(r"UserWarning at .*test_journal\.py:\d+: lr_scheduler\.step\(\) before", journal.lines[-1])


def test_a_log_that_cannot_be_written_at_the_start_ends_the_trial(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    store = Store.open(str(tmp_path))
    with (
        pytest.raises(WriteError, match=r"logs/a\.log cannot be written"),
        TrialLog(print).flushed_to(lambda text: store.write_log("a", text)),
    ):
        raise AssertionError("the trial must not begin")


def test_a_killed_trial_leaves_its_log(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(SWEEP)
    store = Store.open(str(tmp_path / "store"))
    long = ("seeds=[0]", "quant=[]", "experiments.0.train.epochs=100000")
    words = ("sweep", str(tmp_path / "tiny.toml"), *long, "--executor", "inline", "--store", store.location)
    code = "import quantfair.orchestrator.trials.log as j; j.WRITE_EVERY_S = 0.1\n"
    code += "from quantfair.orchestrator.commands.app import app; app()"

    def read_log() -> str:
        logs = list(tmp_path.glob("store/logs/*.log"))
        return logs[0].read_text() if logs else ""

    process = start_process([sys.executable, "-c", code, *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: "epoch 3/" in read_log() or process.poll() is not None, "three epochs")
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    said = read_log()
    assert f"pid {process.pid}," in said
    assert "epoch 3/100000: train loss" in said
    assert not store.trial_ids()
    (log,) = tmp_path.glob("store/logs/*.log")
    store.add_to_log(log.stem, "WorkerDied: its worker was lost\n")
    assert log.read_text() == said + "WorkerDied: its worker was lost\n"

"""What a worker keeps between trials saves work and changes nothing, whatever it ran before."""

import io
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from quantfair import quant
from quantfair.datasets import find_dataset_id
from quantfair.orchestrator.config.spec import Resources, parse_sweep
from quantfair.orchestrator.planning.plan import PlannedTrial, make_plan
from quantfair.orchestrator.trials import run as trial_module
from quantfair.orchestrator.trials.context import LOGITS, LruCache
from quantfair.orchestrator.trials.run import CALIBRATIONS, run_trial
from quantfair.results import Store

RECIPE = {"epochs": 1, "lr": 0.001}
SWEEP = {
    "name": "memory",
    "seeds": [0, 1],
    "experiments": [
        {
            "dataset": {"name": "digits", "task": "digit", "test_share": 0.5, "train_size": 200},
            "model": {"name": "small_cnn", "width": 8},
            "train": {"epochs": 2, "lr": 0.01},
        }
    ],
    "quant": [
        {"method": "ptq", "bits": [8, 4], "act_observer": ["minmax", "percentile", "kl"]},
        {"method": "ptq", "bits": 4, "bn_fold": "none", "act_observer": "ema", "calib_batch_size": 32},
        {"method": "ptq", "bits": 4, "calib_seed": 1, "calib_images": 50},
        {"method": "ptq", "bits": 4, "base": "fp32_ft", **RECIPE},
        {"method": "qat", "bits": 4, "init": ["fp32", "scratch"], **RECIPE},
    ],
}
N_STAGES = 4  # fp32 and fp32_ft, of two seeds
N_CALIBRATIONS = 8  # the images of the first block, of the second and of the third on fp32; the first's on fp32_ft


@pytest.fixture(scope="module")
def plan() -> tuple[PlannedTrial, ...]:
    sweep = parse_sweep(SWEEP)
    return make_plan(sweep, {e.dataset: find_dataset_id(e.dataset) for e in sweep.experiments})


@pytest.fixture
def n_collected(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets longer with every calibration that is collected from a reference model."""
    calls, collect = [], quant.collect

    def count(*args, **kwargs):
        calls.append(1)
        return collect(*args, **kwargs)

    monkeypatch.setattr(trial_module.quant, "collect", count)
    return calls


def run_all(trials: Iterable[PlannedTrial], store: Store, *, forget: bool) -> None:
    CALIBRATIONS.clear()
    LOGITS.clear()
    for trial in trials:
        if forget:
            CALIBRATIONS.clear()
            LOGITS.clear()
        assert run_trial(trial, store, Resources()).status == "ok", Path(store.log_path(trial.trial_id)).read_text()


def read_stage(store: Store, trial: PlannedTrial) -> dict[str, torch.Tensor]:
    return torch.load(io.BytesIO(store.read_stage(trial.trial_id)), weights_only=True)


def test_a_warm_worker_stores_what_a_fresh_one_stores_in_any_order(
    plan: tuple[PlannedTrial, ...], tmp_path: Path, n_collected: list[int]
) -> None:
    fresh, warm = Store.open(str(tmp_path / "fresh")), Store.open(str(tmp_path / "warm"))
    run_all(plan, fresh, forget=True)
    n_fresh = len(n_collected)
    first = [trial for trial in plan if trial.method in ("fp32", "fp32_ft")]
    run_all([*first, *(trial for trial in reversed(plan) if trial not in first)], warm, forget=False)
    assert n_fresh == len(plan) - N_STAGES - 2  # all but those from scratch
    assert len(n_collected) - n_fresh == N_CALIBRATIONS
    for trial in plan:
        predictions, warm_predictions = (store.read_predictions(trial.trial_id, "torch") for store in (fresh, warm))
        assert predictions.equals(warm_predictions), trial.label
        if trial.method == "ptq":
            grids, warm_grids = (read_stage(store, trial) for store in (fresh, warm))
            assert grids.keys() == warm_grids.keys()
            assert all(torch.equal(grids[key], warm_grids[key]) for key in grids), trial.label


def test_calibrations_of_different_images_are_kept_apart(plan: tuple[PlannedTrial, ...], tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    alike = [t for t in plan if t.seed == 0 and t.label.startswith("ptq W4A4 minmax") and t.columns()["base"] == "fp32"]
    one, other = alike  # they differ in `calib_seed` and `calib_images`
    run_all([plan[0], one, other], store, forget=False)
    grids, other_grids = (read_stage(store, trial) for trial in (one, other))
    assert any(not torch.equal(grids[key], other_grids[key]) for key in grids)


def test_a_memory_forgets_what_was_used_longest_ago() -> None:
    memory, made = LruCache[str](2), []

    def get(key: str) -> str:
        return memory.get(key, lambda: made.append(key) or key)

    assert [get(key) for key in "abacab"] == list("abacab")
    assert made == ["a", "b", "c", "b"]

"""What `plan` foresees: bundles, the time by the clock, room on the disk; and that it needs neither torch nor ray."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_plan import plan_of
from test_schedule import queue_of
from test_sweep import ROOT, run

from quantfair.orchestrator.commands.plan import format_bytes
from quantfair.orchestrator.config.spec import Resources, ResourcesByMethod
from quantfair.orchestrator.planning.bundle_queue import BundleQueue
from quantfair.orchestrator.planning.forecast import Machine, estimate_bytes, forecast, guess_bytes, measure_trials
from quantfair.orchestrator.planning.plan import ImageCounts, PlannedTrial
from quantfair.results import Store


def floats(n: int) -> tuple[PlannedTrial, ...]:
    """Trials without needs, all alike."""
    return plan_of(f"seeds={list(range(n))}", "quant=[]")


def test_equal_trials_without_needs_fill_all_slots() -> None:
    plan = floats(40)
    queue = queue_of(plan)
    queue.durations.learn(plan[0], 3.0)
    found = forecast(queue, Machine(cpus=4, gpus=0))
    assert (found.n_slots, found.work_s, found.wall_s) == (4, 120, 30)
    assert not queue.unfinished


def test_the_wall_time_lies_between_the_work_of_a_slot_and_that_plus_the_longest_chain() -> None:
    plan = plan_of(f"seeds={list(range(30))}")
    for n_slots in (1, 2, 7, 500):
        queue = queue_of(plan)
        chain_s = 20 + 10  # fp32, then the longest that needs it
        found = forecast(queue, Machine(cpus=n_slots, gpus=0))
        assert found.wall_s >= max(found.work_s / n_slots, chain_s) - 1e-6
        assert found.wall_s <= found.work_s / n_slots + 2 * chain_s


def test_a_slot_is_what_a_trial_asks_for_and_trials_of_two_kinds_share_the_machine() -> None:
    plan = floats(8)
    wide = BundleQueue(plan, done=(), resources=ResourcesByMethod(fp32=Resources(cpu=2)))
    assert forecast(wide, Machine(cpus=4, gpus=0))[:1] == (2,)
    halves = BundleQueue(plan, done=(), resources=ResourcesByMethod(fp32=Resources(cpu=0.1, gpu=0.3)))
    found = forecast(halves, Machine(cpus=4, gpus=1))
    assert (found.n_slots, found.wall_s) == (3, 60)  # 20 s each
    absent = BundleQueue(plan, done=(), resources=ResourcesByMethod(fp32=Resources(gpu=1)))
    assert forecast(absent, Machine(cpus=4, gpus=0)).wall_s == 160  # one at a time: sweep refuses it here


def test_nothing_left_takes_no_time() -> None:
    assert forecast(BundleQueue((), done=(), resources=ResourcesByMethod()), Machine(2, 0)) == (1, 0, 0, 0)


def test_room_is_that_of_finished_trials_and_else_guessed_from_images_and_classes(tmp_path: Path) -> None:
    plan = plan_of("seeds=[0]")
    store = Store.open(str(tmp_path))
    store.write_trial({**plan[0].columns(), "status": "ok"})
    store.write_stage(plan[0].trial_id, bytes(1000))
    measured = measure_trials(store, plan[:1], ["torch"])
    assert measured == {"fp32": 1000 + (tmp_path / "trials" / f"{plan[0].trial_id}.parquet").stat().st_size}
    small, large = ({plan[0].dataset_id: ImageCounts(n, 10)} for n in (100, 1100))
    rest = estimate_bytes(plan[1:], measured, small)
    assert estimate_bytes(plan, measured, small) == pytest.approx(rest + measured["fp32"])
    ptq = next(trial for trial in plan if trial.method == "ptq")
    per_image = [
        (guess_bytes(t, large[t.dataset_id]) - guess_bytes(t, small[t.dataset_id])) / 1000 for t in (ptq, plan[0])
    ]
    assert per_image == [25, 25 + 4 * 10]  # logits of the float model are kept


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (format_bytes(320_000), "320 kB"),
        (format_bytes(1.2e6), "1.2 MB"),
        (format_bytes(3.4e9), "3.4 GB"),
    ],
)
def test_amounts_are_said_in_units_for_people(said: str, expected: str) -> None:
    assert said == expected


def test_plan_of_ten_thousand_trials_is_short_and_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    words = ["plan", "quickstart", f"seeds={list(range(590))}", "--store", str(tmp_path / "none")]
    code = (
        "import sys; from quantfair.orchestrator.commands.app import app; app(sys.argv[1:], standalone_mode=False); "
        "print([name for name in ('torch', 'ray', 'plotly') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, *words]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("quickstart: 10,620 trials in ")
    assert lines[2].split() == ["fp32", "590", "0", "0", "0", "590", "3", "h", "17", "min"]
    assert lines[6].startswith("left: 10,620 trials in about ")
    assert "(a first guess)" in lines[7]
    assert lines[8].endswith(" (a first guess without weights)")
    assert lines[9] == "[]"
    assert not (tmp_path / "none").exists()


def test_plan_as_json_has_all_of_it(tmp_path: Path) -> None:
    left = json.loads(run("plan", "quickstart", "--store", str(tmp_path), "--json").stdout)["left"]
    assert left["n_trials"] == 54
    assert sum(left["work_s_by_method"].values()) == pytest.approx(left["work_s"])
    assert left["work_s"] / left["n_slots"] <= left["wall_s"] <= left["work_s"]
    assert left["guessed_times"] == left["guessed_sizes"] == ["fp32", "fp32_ft", "ptq", "qat"]
    assert 54 * 25_000 < left["disk_bytes"] < 54 * 100_000

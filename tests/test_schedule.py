"""The queue of a sweep: what is handed out, when and together, and how long what is left is expected to take."""

import itertools
import random
from collections import Counter
from functools import cache
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import plan_of

from quantfair.orchestrator.config.spec import Resources, ResourcesByMethod, load_sweep, parse_sweep
from quantfair.orchestrator.planning.bundle_queue import BUNDLE_S, LEAST_BUNDLE_S, Bundle, BundleQueue
from quantfair.orchestrator.planning.durations import FIRST_GUESS_S, LEAST_S, Durations
from quantfair.orchestrator.planning.plan import PlannedTrial, make_plan

BASED = "quant.0={method='ptq', base='fp32_ft', epochs=5, lr=0.001, bits=[8, 4]}"
plan_once = cache(plan_of)


def queue_of(plan: tuple[PlannedTrial, ...], *, done: tuple[str, ...] = ()) -> BundleQueue:
    to_run = [trial for trial in plan if trial.trial_id not in done]
    queue = BundleQueue(to_run, done=done, resources=ResourcesByMethod())
    queue.n_slots = 2
    return queue


def test_the_queue_hands_out_every_trial_once_and_never_before_its_needs() -> None:
    plan = plan_of()
    queue, finished = queue_of(plan), set()
    while bundle := queue.take():
        for trial in bundle.trials:
            assert finished.issuperset(trial.needs)
            assert trial.trial_id not in finished
            finished.add(trial.trial_id)
            queue.finish(trial.trial_id, "ok", seconds=1.0)
    assert len(finished) == 54
    assert not queue.unfinished
    assert queue.remaining_s() == 0


def test_nothing_is_ready_while_the_stages_run() -> None:
    queue = queue_of(plan_of())
    stages = [queue.take() for _ in range(3)]
    assert [bundle.trials[0].method for bundle in stages if bundle] == ["fp32"] * 3
    assert queue.take() is None
    assert len(queue.unfinished) == 54


def test_bundles_hold_about_thirty_seconds_of_work_and_shrink_towards_the_end() -> None:
    plan = plan_of(f"seeds={list(range(40))}")
    stages = tuple(trial.trial_id for trial in plan if trial.method == "fp32")
    queue = queue_of(plan, done=stages)
    sizes = []
    while bundle := queue.take():
        sizes.append(sum(queue.durations.estimate_s(trial) for trial in bundle.trials))
        for trial in bundle.trials:
            queue.finish(trial.trial_id, "ok")
    assert max(sizes) <= BUNDLE_S
    assert max(sizes[:10]) > BUNDLE_S / 2
    assert sizes[-1] < max(sizes)


def test_a_failed_need_is_never_waited_for() -> None:
    plan = plan_of("seeds=[0]")
    queue = queue_of(plan)
    bundle = queue.take()
    assert bundle is not None
    queue.finish(bundle.trials[0].trial_id, "failed")
    assert queue.take() is None
    assert not queue.unfinished
    assert len(queue.blocked) == 17


def test_trials_of_different_resources_are_not_bundled() -> None:
    sweep = parse_sweep({**load_sweep("quickstart", ["seeds=[0]"]).raw, "resources": {"qat": {"cpu": 2}}})
    plan = make_plan(sweep, {experiment.dataset: "0" * 16 for experiment in sweep.experiments})
    queue = BundleQueue(plan[1:], done=[plan[0].trial_id], resources=sweep.head.resources)
    while bundle := queue.take():
        assert {trial.method == "qat" for trial in bundle.trials} == {bundle.resources.cpu == 2}


def test_bundles_given_back_are_handed_out_again() -> None:
    plan = plan_of("seeds=[0]")
    queue = queue_of(plan, done=(plan[0].trial_id,))
    first = queue.take()
    assert first is not None
    queue.give_back(first.trials[1:])
    rest = []
    while bundle := queue.take():
        rest += bundle.trials
    assert len(rest) + 1 == 17


class Oracle:
    """Estimates by the rule, from everything that was ever timed."""

    def __init__(self) -> None:
        self.timed: list[tuple[PlannedTrial, float]] = []

    def estimate_s(self, trial: PlannedTrial) -> float:
        kinds = (
            lambda t: t.config_id,
            lambda t: (t.method, t.model, t.dataset_id, t.train),
            lambda t: t.method,
        )
        for kind in kinds:
            if alike := [seconds for other, seconds in self.timed if kind(other) == kind(trial)]:
                return mean(alike)
        return FIRST_GUESS_S[trial.method]


def test_estimates_go_from_the_same_configuration_to_the_same_method_to_a_first_guess() -> None:
    plan = plan_of("seeds=[0, 1]", "experiments.0.model.width=[8, 16]")
    narrow, wide = (
        next(t for t in plan if t.method == "ptq" and t.model.width == width and t.seed == 0) for width in (8, None)
    )
    durations = Durations()
    assert durations.estimate_s(narrow) == FIRST_GUESS_S["ptq"]
    durations.learn_method("ptq", 8.0)
    assert durations.estimate_s(narrow) == 8.0
    durations.learn(narrow, 2.0)
    by_seed = {t.seed: durations.estimate_s(t) for t in plan if t.config_id == narrow.config_id}
    assert by_seed == {0: 2.0, 1: 2.0}
    others = [t for t in plan if t.method == "ptq" and t.model == narrow.model and t.config_id != narrow.config_id]
    assert {durations.estimate_s(t) for t in others} == {2.0}
    assert durations.estimate_s(wide) == 5.0  # the mean of the method
    durations.learn(others[0], 4.0)
    assert durations.estimate_s(narrow) == 2.0
    assert durations.estimate_s(others[1]) == 3.0
    assert durations.estimate_s(next(t for t in plan if t.method == "qat")) == FIRST_GUESS_S["qat"]


def test_no_trial_is_expected_to_take_no_time() -> None:
    trial, durations = plan_of("seeds=[0]")[0], Durations()
    durations.learn(trial, 0.0)
    assert durations.estimate_s(trial) == LEAST_S


PLANS = st.sampled_from(
    [
        ("seeds=[0]",),
        ("seeds=[0, 1, 2, 3]", "quant.0.bits=[8, 4]", "quant.1.bits=8"),
        ("seeds=[0, 1]", "experiments.0.model.width=[8, 16]", BASED, "quant.1.epochs=[1, 2]"),
        ("seeds=[0, 1, 2, 3, 4, 5]", "quant=[]"),
    ]
)
SHAPES = st.builds(
    ResourcesByMethod,
    ptq=st.sampled_from([Resources(), Resources(cpu=2)]),
    qat=st.sampled_from([Resources(), Resources(cpu=2), Resources(gpu=0.5)]),
)


class Run:
    """Workers that finish, fail and lose trials at random, and the books that are kept of it."""

    def __init__(self, plan: tuple[PlannedTrial, ...], queue: BundleQueue, chance: random.Random):
        self.plan, self.queue, self.chance = {trial.trial_id: trial for trial in plan}, queue, chance
        self.out: list[list[PlannedTrial]] = []
        self.ok: set[str] = set()
        self.failed: set[str] = set()
        self.times_out: Counter[str] = Counter()
        self.oracle = Oracle()

    def step(self) -> None:
        if self.out and self.chance.random() < 0.7:
            self.work()
        elif bundle := self.queue.take():
            self.check(bundle)
            self.times_out.update(trial.trial_id for trial in bundle.trials)
            self.out.append(list(bundle.trials))

    def check(self, bundle: Bundle) -> None:
        places = list(self.plan)
        assert {getattr(self.queue.resources, t.method) for t in bundle.trials} == {bundle.resources}
        order = [places.index(trial.trial_id) for trial in bundle.trials]
        assert order == sorted(order)
        stages = [stage for stage, _ in itertools.groupby(trial.stage_id for trial in bundle.trials)]
        assert len(stages) == len(set(stages))  # the trials of a stage stand together
        for trial in bundle.trials:
            assert self.ok.issuperset(trial.needs)
            assert trial.trial_id not in self.ok | self.failed
            assert self.times_out[trial.trial_id] == 0

    def work(self) -> None:
        bundle = self.chance.choice(self.out)
        if self.chance.random() < 0.1:  # its worker is lost
            self.times_out.subtract(trial.trial_id for trial in bundle)
            self.queue.give_back(bundle)
            bundle.clear()
        else:
            trial, seconds = bundle.pop(0), self.chance.choice([None, 0.01, 1.0, 40.0])
            failed = self.chance.random() < 0.1
            (self.failed if failed else self.ok).add(trial.trial_id)
            self.queue.finish(trial.trial_id, "failed" if failed else "ok", seconds=seconds)
            self.oracle.timed += [(trial, seconds)] if seconds is not None else []
        self.out = [trials for trials in self.out if trials]

    def left_s(self) -> float:
        return sum(self.oracle.estimate_s(self.plan[trial_id]) for trial_id in self.queue.unfinished)


@settings(max_examples=60, deadline=None)
@given(overrides=PLANS, shapes=SHAPES, n_slots=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_whatever_happens_everything_is_handed_out_once_unless_given_back_and_after_its_needs(
    overrides: tuple[str, ...], shapes: ResourcesByMethod, n_slots: int, seed: int
) -> None:
    plan = plan_once(*overrides)
    queue = BundleQueue(plan, done=(), resources=shapes)
    queue.n_slots = n_slots
    run = Run(plan, queue, random.Random(seed))
    while queue.unfinished:
        run.step()
        assert queue.remaining_s() == pytest.approx(run.left_s(), rel=1e-9, abs=1e-9)
    assert queue.take() is None
    assert not run.out
    dead: set[str] = set(run.failed)
    for trial in plan:
        if dead.intersection(trial.needs):
            dead.add(trial.trial_id)
    assert queue.blocked == dead - run.failed
    assert run.ok | dead == set(run.plan)
    assert all(run.times_out[trial_id] == (trial_id not in queue.blocked) for trial_id in run.plan)


def test_a_bundle_goes_on_with_the_next_stage_where_one_has_too_little() -> None:
    plan = plan_of(f"seeds={list(range(40))}", "quant=[{method='ptq'}]")
    stages = tuple(trial.trial_id for trial in plan if trial.method == "fp32")
    queue = queue_of(plan, done=stages)
    first = queue.take()
    assert first is not None
    assert len({trial.stage_id for trial in first.trials}) == len(first.trials) == 10  # 40 s on 2 slots, two turns each


def test_stages_are_spread_over_all_slots_though_most_of_the_work_comes_later() -> None:
    plan = plan_of(f"seeds={list(range(10))}")
    queue = queue_of(plan)
    queue.n_slots = 100
    sizes = []
    for trial in plan:
        queue.durations.learn(trial, 0.3)
    while bundle := queue.take():
        sizes.append(len(bundle.trials))
    assert sizes == [1] * 10


def test_bundles_are_no_smaller_than_a_quarter_of_a_second_of_work() -> None:
    plan = plan_of(f"seeds={list(range(20))}")
    queue = queue_of(plan, done=tuple(trial.trial_id for trial in plan if trial.method == "fp32"))
    queue.n_slots = 50
    for trial in plan:
        queue.durations.learn(trial, 0.05)
    planned_s = []
    while bundle := queue.take():
        planned_s.append(sum(queue.durations.estimate_s(trial) for trial in bundle.trials))
        for trial in bundle.trials:
            queue.finish(trial.trial_id, "ok")
    assert min(planned_s[:-1]) == pytest.approx(LEAST_BUNDLE_S)


def test_kinds_of_resources_take_turns() -> None:
    plan = plan_of("seeds=[0]")
    resources = ResourcesByMethod(qat=Resources(gpu=1))
    queue = BundleQueue(plan[1:], done=[plan[0].trial_id], resources=resources)
    control = next(trial for trial in plan if trial.method == "fp32_ft")
    queue.finish(control.trial_id, "ok")
    queue.n_slots = 4
    order = [bundle.resources.gpu for _ in range(6) if (bundle := queue.take())]
    assert order == [0, 1, 0, 1, 0, 1]

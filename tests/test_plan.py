"""The plan: which trials a sweep stands for, their ids, and what happens to them when others fail."""

import json
from collections import Counter
from pathlib import Path

import pytest

from quantfair.orchestrator.config.spec import load_sweep
from quantfair.orchestrator.planning.plan import PlannedTrial, find_state, make_plan
from quantfair.results.configurations import name_configurations, order_trials
from quantfair.results.schema import TRIALS
from quantfair.results.store.rows import rows_to_table


def plan_of(*overrides: str, name: str = "quickstart") -> tuple[PlannedTrial, ...]:
    sweep = load_sweep(name, list(overrides))
    return make_plan(sweep, {experiment.dataset: "0123456789abcdef" for experiment in sweep.experiments})


def qat_of(*overrides: str) -> PlannedTrial:
    """The last QAT trial of the quickstart."""
    return [trial for trial in plan_of(*overrides) if trial.method == "qat"][-1]


def test_the_quickstart_stands_for_54_trials() -> None:
    plan = plan_of()
    assert Counter(trial.method for trial in plan) == {"fp32": 3, "fp32_ft": 3, "ptq": 30, "qat": 18}
    assert len({trial.trial_id for trial in plan}) == 54
    assert len({trial.config_id for trial in plan}) == 18


def test_every_quantized_trial_names_its_reference_and_every_qat_trial_its_control() -> None:
    plan = {trial.trial_id: trial for trial in plan_of()}
    for trial in plan.values():
        if trial.method == "fp32":
            assert trial.reference_trial_id is None
            continue
        reference = plan[str(trial.reference_trial_id)]
        assert (reference.method, reference.seed) == ("fp32", trial.seed)
        if trial.method == "qat":
            control = plan[str(trial.control_trial_id)]
            assert (control.method, control.seed) == ("fp32_ft", trial.seed)
            assert control.quant.epochs == trial.quant.epochs  # type: ignore[union-attr]
        else:
            assert trial.control_trial_id is None
            assert trial.control_reason


def test_own_weights_are_one_model_whatever_the_seeds(tmp_path: Path) -> None:
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"weights")
    plan = plan_of(f"experiments.0.model={{name='small_cnn', weights='{weights}'}}")
    assert Counter(trial.method for trial in plan) == {"fp32": 1, "fp32_ft": 3, "ptq": 10, "qat": 18}
    assert {trial.seed for trial in plan if trial.method in ("fp32", "ptq")} == {0}
    assert {trial.reference_trial_id for trial in plan if trial.method != "fp32"} == {plan[0].trial_id}
    controls = {trial.trial_id: trial for trial in plan if trial.method == "fp32_ft"}
    qat = [trial for trial in plan if trial.method == "qat"]
    assert all(controls[str(trial.control_trial_id)].seed == trial.seed for trial in qat)


def test_there_is_one_control_for_each_distinct_recipe() -> None:
    controls = [trial for trial in plan_of("quant.1.epochs=[1, 2]", "seeds=[0]") if trial.method == "fp32_ft"]
    assert len(controls) == 2


def test_ptq_of_the_fine_tuned_model_needs_it_and_is_compared_with_it() -> None:
    plan = plan_of("quant.0={method='ptq', base='fp32_ft', epochs=5, lr=0.001, bits=[8, 4]}", "seeds=[0]")
    (control,) = [trial for trial in plan if trial.method == "fp32_ft"]
    based = [trial for trial in plan if trial.columns()["base"] == "fp32_ft"]
    assert len(based) == 2
    for trial in based:
        assert trial.needs == (plan[0].trial_id, control.trial_id)
        assert trial.reference_trial_id == control.trial_id
        assert trial.stage_id == plan[0].trial_id
        assert trial.columns()["base"] == "fp32_ft"
    assert {trial.control_trial_id for trial in plan if trial.method == "qat"} == {control.trial_id}


def test_qat_from_scratch_has_fp32_as_control_only_where_their_steps_are_the_same() -> None:
    silent = "quant.1={method='qat', init='scratch'}"
    same = "quant.1={method='qat', init='scratch', epochs=15, lr=0.003, schedule='cosine', select='best_val'}"
    others = ("epochs=14", "lr=0.004", "schedule='constant'", "select='last'", "schedule='step', milestones=[9]")
    cases = [(silent, True), (same, True), *((silent.replace("}", f", {other}}}"), False) for other in others)]
    for override, expected in cases:
        plan = plan_of(override, "seeds=[0]")
        (scratch,) = [trial for trial in plan if trial.method == "qat"]
        assert not [trial for trial in plan if trial.method == "fp32_ft"]
        assert scratch.reference_trial_id == plan[0].trial_id
        assert (scratch.control_trial_id == plan[0].trial_id) == expected
        assert (scratch.control_reason is None) == expected


def test_other_milestones_are_other_steps() -> None:
    train = "experiments.0.train={epochs=15, lr=0.003, schedule='step', milestones=[9]}"
    scratch = "quant.1={method='qat', init='scratch', bits=8, milestones=[10]}"
    assert qat_of(train, scratch, "seeds=[0]").control_trial_id is None


def test_qat_from_scratch_has_one_id_whether_its_course_is_said_or_left_to_train() -> None:
    silent, said, other = (
        qat_of(f"quant.1={{method='qat', init='scratch'{course}}}", "seeds=[0]")
        for course in ("", ", epochs=15, lr=0.003, select='best_val'", ", select='last'")
    )
    assert silent.trial_id == said.trial_id != other.trial_id
    assert silent.label.startswith("qat W8A8 ema select=best_val init=scratch seed 0 (config ")


def test_the_sweep_scratch_has_both_starts_each_with_its_own_control() -> None:
    plan = plan_of(name="scratch")
    assert Counter(trial.method for trial in plan) == {"fp32": 3, "fp32_ft": 3, "ptq": 9, "qat": 18}
    methods = {trial.trial_id: trial.method for trial in plan}
    controls = Counter((t.columns()["init"], methods[str(t.control_trial_id)]) for t in plan if t.method == "qat")
    assert controls == {("fp32", "fp32_ft"): 9, ("scratch", "fp32"): 9}


def test_the_sweep_reference_trains_each_model_as_its_script_did() -> None:
    plan = plan_of(name="reference")
    assert Counter(trial.method for trial in plan) == {"fp32": 3, "ptq": 18, "qat": 18}
    assert all(trial.control_trial_id == trial.needs[0] for trial in plan if trial.method == "qat")
    found = {
        trial.dataset.name: (trial.model.name, settings.epochs, settings.batch_size, settings.lr, settings.weight_decay)
        for trial in plan
        if (settings := trial.train).optimizer == "adam" and trial.model.width is None
    }
    assert found == {
        "mnist": ("nin_gc", 19, 32, 0.01, 1e-5),
        "cifar10": ("nin_gc", 199, 32, 0.01, 1e-5),
        "utkface": ("trident", 60, 64, 0.001, 0),
    }
    drops = {trial.dataset.name: trial.train.milestones for trial in plan}  # of those within the epochs
    assert drops == {"mnist": (), "cifar10": (80, 130, 180), "utkface": (40,)}


def test_needs_come_first() -> None:
    seen: set[str] = set()
    for trial in plan_of():
        assert seen.issuperset(trial.needs)
        seen.add(trial.trial_id)


def test_equal_trials_of_two_blocks_are_one() -> None:
    assert len(plan_of("quant.1={method='ptq', bits=8}", "seeds=[0]")) == 1 + 10


# A promise: these may change only when a result would, and then ENGINE_VERSION is raised by hand.
GOLDEN = {
    "fp32 seed 0": ("c8c711fd46138e4a", "0d36b4c5ad2a2d72"),
    "fp32_ft seed 0": ("4254cf83dde952a4", "181dd57f1932e166"),
    "ptq W8A8 minmax seed 0": ("02f85d70484ba2bd", "156056a6f369039f"),
    "ptq W4A4 percentile seed 0": ("157bc51b6b43602c", "2057a2f5de606e58"),
    "qat W16A16 minmax seed 0": ("595cb974dcba016e", "46df998d6123aa5a"),
    "qat W4A4 ema seed 0": ("af178e64848792ae", "58a8e27d0de94dd1"),
}


@pytest.mark.parametrize("label", GOLDEN)
def test_ids_are_those_of_yesterday(label: str) -> None:
    trial = next(trial for trial in plan_of() if trial.label.startswith(f"{label} ("))
    assert (trial.trial_id, trial.config_id) == GOLDEN[label]


def test_ids_do_not_depend_on_what_changes_no_result() -> None:
    plain = {trial.trial_id for trial in plan_of()}
    placed = ("name=other", "retry.crash=5", "resources.qat={cpu=2, gpu=0.5, memory_gb=4, labels={pool='gpu'}}")
    assert plain == {trial.trial_id for trial in plan_of(*placed, "resources.ptq.accelerator_type=A100")}
    assert plain == {trial.trial_id for trial in plan_of("quant.0.scheme=symmetric", "experiments.0.model.width=16")}
    assert plain == {trial.trial_id for trial in plan_of("experiments.0.dataset.group_by=['digit']")}
    for change in ("experiments.0.train.lr=0.004", "experiments.0.model.width=8", "experiments.0.train.epochs=16"):
        assert plain.isdisjoint(trial.trial_id for trial in plan_of(change))


def test_the_seed_is_in_the_trial_id_but_not_in_the_config_id() -> None:
    first, second = plan_of("seeds=[0]"), plan_of("seeds=[1]")
    assert [trial.config_id for trial in first] == [trial.config_id for trial in second]
    assert {trial.trial_id for trial in first}.isdisjoint(trial.trial_id for trial in second)


def test_a_planned_trial_travels_as_json() -> None:
    for trial in plan_of("seeds=[0]"):
        again = PlannedTrial.model_validate_json(trial.model_dump_json())
        assert again == trial
        assert again.trial_id == trial.trial_id


def test_the_columns_of_a_trial_hold_its_settings() -> None:
    trial = next(t for t in plan_of() if t.method == "qat")
    columns = trial.columns()
    assert (columns["weight_bits"], columns["act_observer"], columns["init"]) == (16, "minmax", "fp32")
    assert json.loads(columns["config"])["quant"]["epochs"] == 5


def test_a_failed_stage_blocks_its_children_and_nothing_else() -> None:
    plan = plan_of("seeds=[0, 1]")
    state = find_state(plan, {plan[0].trial_id: "failed"})
    assert len(state.blocked) == 17
    assert len(state.to_run) == 18
    again = find_state(plan, {plan[0].trial_id: "failed"}, run_again=frozenset([plan[0].trial_id]))
    assert len(again.to_run) == 36


@pytest.mark.parametrize("method", ["ptq", "qat"])
def test_labels_name_method_bits_observer_and_seed(method: str) -> None:
    labels = {trial.label: trial for trial in plan_of() if trial.method == method}
    (label,) = [label for label in labels if label.startswith(f"{method} W8A8 ema seed 2 ")]
    assert label.endswith(f" (config {labels[label].config_id[:6]})")


# The same 4 bits, each with one more setting: what people read must tell them apart.
VARIANTS = (
    "quant.0={method='ptq', bits=4, rounding=['nearest', 'adaround'], bias_correction=[false, true]}",
    "quant.1={method='qat', bits=4, epochs=2, lr=0.01, scales=['observed', 'learned'], freeze_bn_after=[0, 1]}",
    "quant.2={method='ptq', bits=4, first_last_bits=8, quantize_adds=[false, true], overrides={'conv*'={bits=8}}}",
    "quant.3={method='qat', bits=4, epochs=2, lr=0.01, freeze_observers_after=[0, 1], bn_fold=['fold', 'none']}",
    "quant.4={method='ptq', bits=4, overrides={'fc'={quantize=false}}, calib_images=[64, 128]}",
    "experiments.0.train.lr=[0.003, 0.01]",
)


def plan_of_variants() -> tuple[PlannedTrial, ...]:
    return plan_of("quant=[{}, {}, {}, {}, {}]", *VARIANTS, "seeds=[0]")


def test_labels_and_configs_tell_every_configuration_apart() -> None:
    plan = plan_of_variants()
    assert len({trial.label for trial in plan}) == len({trial.columns()["config"] for trial in plan}) == len(plan)
    said = " ".join(trial.label for trial in plan)
    for words in (
        "minmax rounding=adaround bias_correction=True seed",
        "ema freeze_bn_after=0 scales=learned seed",
        "minmax first_last_bits=8 overrides=conv* quantize_adds=True seed",
        "ema freeze_observers_after=1 seed",
        "minmax overrides=fc calib_images=64 seed",
    ):
        assert words in said, words


def test_the_page_names_every_configuration_differently_and_in_words() -> None:
    rows = rows_to_table((trial.columns() for trial in plan_of_variants()), TRIALS)
    trials = order_trials(rows)
    for model in {trial["float_model"] for trial in trials}:
        same = [trial for trial in trials if trial["float_model"] == model]
        names = name_configurations(same)
        assert len(set(names.values())) == len(names) == len(same)
        assert not [name for name in names.values() if name.endswith(")")]  # none needs its id to be told apart
        assert [name for name in names.values() if "overrides conv*, act bits 8, weight bits 8" in name]

"""Settings that only make sense with the data: heads, preprocessing, balanced calibration; on made-up faces."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import write_class_folders, write_csv
from test_plan import plan_of
from test_sweep import Said, rows_of, run
from torchvision.transforms.v2 import functional as v2

from quantfair.datasets import DatasetSpec, load_dataset
from quantfair.orchestrator.config.compatibility import find_incompatibilities
from quantfair.orchestrator.config.spec import load_sweep
from quantfair.orchestrator.planning.plan import PlannedTrial
from quantfair.orchestrator.trials import run as trial_module
from quantfair.quant import Calibration, Fp32Spec, ModelSpec, PtqSpec, TrainSpec, build_model, predict
from quantfair.results import Store

FACES = """
name = "faces"
seeds = [0]

[[experiments]]
dataset = {name = "utkface", task = "gender", group_by = ["ethnicity"], test_share = 0.3}
model = {name = "trident", width = 2}
train = {epochs = 1, lr = 0.01, batch_size = 16}

[[quant]]
method = "ptq"
bits = 8

[[quant]]
method = "qat"
bits = 8
epochs = 1
lr = 0.001
"""


@pytest.fixture
def faces_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A sweep on 60 made-up faces."""
    write_csv(tmp_path)
    monkeypatch.setenv("QUANTFAIR_DATA", str(tmp_path))
    file = tmp_path / "faces.toml"
    file.write_text(FACES)
    return str(file)


def sweep(file: str, *overrides: str) -> tuple[Said, Store]:
    store = str(Path(file).parent / "store")
    return run("sweep", file, *overrides, "--executor", "inline", "--store", store), Store.open(store)


def bench_of(model: ModelSpec, task: str) -> trial_module.TrialContext:
    spec = DatasetSpec(name="utkface", task=task, test_share=0.3)
    dataset = load_dataset(spec)
    planned = PlannedTrial(
        dataset=spec,
        dataset_id=dataset.dataset_id,
        model=model,
        train=TrainSpec(epochs=1, lr=0.01),
        quant=Fp32Spec(method="fp32"),
        seed=0,
    )
    return trial_module.TrialContext(planned, dataset, Store.open("unused"), trial_module.TrialLog(print), "cpu")


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        ("gender", ("gender", "age_bin", "ethnicity")),
        ("ethnicity", ("ethnicity", "age_bin", "gender")),
        ("age", ("age_bin", "gender", "ethnicity")),
    ],
)
def test_with_all_heads_training_has_their_labels_and_the_tasks_come_first(
    faces_file: str, task: str, columns: tuple[str, ...]
) -> None:
    bench = bench_of(ModelSpec(name="trident", width=2, heads="all"), task)
    got = torch.cat([labels_NT for _, labels_NT in bench.training_batches(8).epoch()])
    train, attributes = bench.dataset.splits["train"], bench.dataset.attributes
    assert np.array_equal(got, np.stack([attributes[name].codes_N[train] for name in columns], axis=1))


def test_validation_and_a_single_head_have_the_tasks_labels_alone(faces_file: str) -> None:
    bench = bench_of(ModelSpec(name="trident", width=2), "gender")
    train, genders = bench.dataset.splits["train"], bench.dataset.attributes["gender"].codes_N
    got = torch.cat([labels_N for _, labels_N in bench.training_batches(8).epoch()])
    assert np.array_equal(got, genders[train])


@pytest.mark.parametrize("heads", ["task", "all"])
def test_a_sweep_trains_the_heads_that_it_asks_for(faces_file: str, heads: str) -> None:
    said, store = sweep(faces_file, f"experiments.0.model.heads={heads}")
    rows = {row["method"]: row for row in rows_of(store).values()}
    assert said.exit_code == 0, said
    assert set(rows) == {"fp32", "fp32_ft", "ptq", "qat"}
    spec = ModelSpec(name="trident", width=2)
    sizes = {"age": 9, "gender": 2, "ethnicity": 5}
    states = [build_model(spec, in_channels=1, n_classes=2, seed=0, task="gender", heads=sizes).state_dict()]
    for method in ("fp32", "fp32_ft"):
        file = Path(store.location, "stages", f"{rows[method]['trial_id']}.pt")
        states.append(torch.load(file, weights_only=True))
    for before, after in itertools.pairwise(states):
        moved = {key[:5] for key in before if key.endswith("fc4.bias") and not torch.equal(before[key], after[key])}
        assert moved == ({"ageNN", "genNN", "ethNN"} if heads == "all" else {"genNN"})


def test_heads_that_the_data_lacks_are_refused_before_anything_starts(faces_file: str, tmp_path: Path) -> None:
    said, _ = sweep(faces_file, "experiments.0.dataset={name='digits', task='digit'}")
    assert said.exit_code == 2
    assert "`model.name` trident has the heads age, gender, ethnicity, and the task of digits is 'digit'" in said.stderr
    table = "\n".join(["path,label,gender", *(f"{i % 2}/{i // 2:03}.png,x,{i % 2}" for i in range(40))])
    (write_class_folders(tmp_path, classes=("0", "1")) / "pictures.csv").write_text(table)
    data = "experiments.0.dataset={name='image_folder', path='pictures.csv', task='gender', size=48}"
    said, store = sweep(faces_file, data, "experiments.0.model.heads=all")
    expected = (
        "`model.heads` 'all' trains the heads age, gender, ethnicity of trident, "
        "and image_folder has no age, ethnicity: set heads = 'task'."
    )
    assert said.exit_code == 2
    assert expected in said.stderr
    assert not Path(store.location).exists()
    assert sweep(faces_file, data)[0].exit_code == 0


def test_calibration_can_be_balanced_by_group(faces_file: str) -> None:
    balanced = "quant.0={method='ptq', calib_images=10, calib_balance=['uniform', 'ethnicity*gender']}"
    said, store = sweep(faces_file, balanced, "quant.1={method='ptq', calib_images=10, bits=4}")
    assert said.exit_code == 0, said
    logs = [path.read_text() for path in Path(store.location, "logs").glob("*.log")]
    assert sum("(up to 10 were asked for, balanced by ethnicity*gender)" in log for log in logs) == 1
    assert sum("(up to 10 were asked for)" in log for log in logs) == 2


def test_a_balanced_trial_calibrates_on_equally_many_images_of_every_group(
    faces_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    collect = trial_module.quant.collect

    def spy(model: torch.nn.Module, images: Iterable[torch.Tensor]) -> Calibration:
        seen.append(torch.cat(list(images)))
        return collect(model, [seen[-1]])

    monkeypatch.setattr(trial_module.quant, "collect", spy)
    said, _ = sweep(faces_file, "quant=[{method='ptq', calib_images=10, calib_balance='ethnicity'}]")
    assert said.exit_code == 0, said
    dataset = load_dataset(DatasetSpec(name="utkface", task="gender", group_by=("ethnicity",), test_share=0.3))
    pixels = dataset.images.batch(np.arange(60)).reshape(60, -1).astype(np.float32) / 255
    normalised = torch.from_numpy((pixels - dataset.mean_C) / dataset.std_C)
    nearest = torch.cdist(seen[0].flatten(1), normalised).argmin(1).numpy()
    assert set(nearest) <= set(dataset.splits["train"])
    assert np.bincount(dataset.attributes["ethnicity"].codes_N[nearest]).tolist() == [2] * 5


def test_balancing_by_an_unknown_grouping_is_refused_with_the_nearest_name(faces_file: str) -> None:
    said, _ = sweep(faces_file, "quant.0.calib_balance=['uniform', 'gender*ethnicty', 'group']")
    assert said.exit_code == 2
    allowed = "must be uniform or a grouping of utkface (label, ethnicity, gender, age_bin, or a crossing 'a*b')"
    assert f"`quant.calib_balance` {allowed}, got 'gender*ethnicty'. Did you mean 'ethnicity'?" in said.stderr
    assert f"`quant.calib_balance` {allowed}, got 'group'." in said.stderr


def test_uniform_is_left_out_of_the_id_and_a_grouping_is_part_of_it() -> None:
    plain, uniform, balanced = (
        PtqSpec.model_validate({"method": "ptq", **settings}).model_dump(exclude_defaults=True)
        for settings in ({}, {"calib_balance": "uniform"}, {"calib_balance": "ethnicity"})
    )
    assert plain == uniform == {"method": "ptq"}
    assert balanced == {"method": "ptq", "calib_balance": "ethnicity"}


PREPROCESS = "experiments.0.model={name='small_cnn', preprocess={resize=24, mean=[0.5], std=[0.25]}}"


def test_training_calibration_and_evaluation_see_preprocessed_images(
    faces_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, torch.Tensor] = {}
    fit, collect = trial_module.quant.fit, trial_module.quant.collect

    def spy_on_fit(model: torch.nn.Module, spec: TrainSpec, **batches: Any) -> Any:
        seen["train"] = torch.cat([images for images, _ in batches["train"].epoch()])
        seen["val"] = torch.cat([images for images, _ in batches["val"].epoch()])
        return fit(model, spec, **batches)

    def spy_on_collect(model: torch.nn.Module, images: Iterable[torch.Tensor]) -> Calibration:
        seen["calib"] = torch.cat(list(images))
        return collect(model, [seen["calib"]])

    monkeypatch.setattr(trial_module.quant, "fit", spy_on_fit)
    monkeypatch.setattr(trial_module.quant, "collect", spy_on_collect)
    said, store = sweep(faces_file, PREPROCESS, "quant=[{method='ptq', bits=8}]")
    assert said.exit_code == 0, said

    dataset = load_dataset(DatasetSpec(name="utkface", task="gender", group_by=("ethnicity",), test_share=0.3))
    pixels = torch.from_numpy(dataset.images.batch(np.arange(60))).float() / 255
    expected = v2.normalize(v2.resize(pixels, [24, 24], antialias=True), [0.5], [0.25])
    for name in ("train", "val"):
        torch.testing.assert_close(seen[name], expected[dataset.splits[name]])
    assert torch.cdist(seen["calib"].flatten(1), expected.flatten(1)).min(1).values.max() < 0.01

    fp32 = next(row for row in rows_of(store).values() if row["method"] == "fp32")
    model = build_model(ModelSpec(name="small_cnn"), in_channels=1, n_classes=2, seed=0)
    model.load_state_dict(torch.load(Path(store.location, "stages", f"{fp32['trial_id']}.pt"), weights_only=True))
    predictions = store.read_predictions(fp32["trial_id"], "torch").to_pandas()
    logits_NK = predict(model, [expected[predictions["sample_id"].tolist()]]).numpy()
    np.testing.assert_allclose(np.stack(predictions["logits"].to_list()), logits_NK, rtol=2e-3, atol=1e-4)


def test_preprocess_is_part_of_the_id_and_its_absence_is_not() -> None:
    def ids(*overrides: str) -> list[str]:
        return [trial.trial_id for trial in plan_of("seeds=[0]", *overrides)]

    assert ids("experiments.0.model.preprocess={}") == ids() == ids("experiments.0.model.preprocess={mean=[]}")
    others = ("resize=16", "mean=[0.5]", "std=[0.5]", "mean=[0.25]")
    different = [ids(f"experiments.0.model.preprocess={{{setting}}}") for setting in others]
    assert len({trial_id for some in (*different, ids()) for trial_id in some}) == 5 * len(ids())
    assert ids("experiments.0.model.preprocess={mean=[1]}") == ids("experiments.0.model.preprocess={mean=[1.0]}")


@pytest.mark.parametrize(
    ("preprocess", "expected"),
    [
        ("{resize=0}", "`experiments.0.model.preprocess.resize` must be a whole number in 4..1024, got 0."),
        ("{sdt=[0.5]}", "`experiments.0.model.preprocess.sdt` is not a known key. Did you mean 'std'?"),
        ("{std=[0.0]}", "`experiments.0.model.preprocess.std` must hold numbers above 0, got [0.0]."),
        (
            "{mean=[0.5, 0.5], std=[0.5]}",
            "`experiments.0.model.preprocess.std` must have as many numbers as mean, 2, got 1.",
        ),
        ("{mean=['a']}", "`experiments.0.model.preprocess.mean.0` must be a list of numbers, got 'a' (a text)."),
        ("{mean=[inf]}", "`experiments.0.model.preprocess.mean.0` must be a list of numbers, got inf."),
        ("224", "`experiments.0.model.preprocess` must be a table, got 224 (a whole number)."),
        (
            "{mean=[0.5, 0.5, 0.5]}",
            "`model.preprocess` `mean` must have a number for each channel, got 3; the images of utkface have 1.",
        ),
    ],
)
def test_a_wrong_preprocess_is_refused_before_anything_starts(faces_file: str, preprocess: str, expected: str) -> None:
    said, _ = sweep(faces_file, f"experiments.0.model.preprocess={preprocess}")
    assert said.exit_code == 2
    assert expected in said.stderr


def test_the_built_in_sweeps_fit_their_data() -> None:
    experiment = load_sweep("quickstart", []).experiments[0]
    assert find_incompatibilities(experiment.model, experiment.quant, load_dataset(experiment.dataset)) == []

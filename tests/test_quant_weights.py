"""A user's own weights: every accepted form of a file, every error, their hash, and a trial that only evaluates."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.models
from quant_digits import TEST, same_state, trained_model
from torch import Tensor, nn

from quantfair.datasets import load_dataset
from quantfair.orchestrator.config.spec import Resources, parse_sweep
from quantfair.orchestrator.planning.plan import make_plan
from quantfair.orchestrator.trials.run import run_trial
from quantfair.quant import ModelSpec, build_model, fingerprint_weights, predict
from quantfair.results import Store

ROOT = Path(__file__).resolve().parent.parent


def build(path: Path | str, *, name: str = "small_cnn", classes: int = 10, **settings) -> nn.Module:
    spec = ModelSpec.model_validate({"name": name, "weights": str(path), **settings})
    return build_model(spec, in_channels=1, n_classes=classes, seed=1)


def state() -> dict[str, Tensor]:
    return trained_model().state_dict()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "own.pt"


ACCEPTED = {
    "a state dict": lambda: state(),
    "of DataParallel": lambda: {f"module.{key}": value for key, value in state().items()},
    "nested": lambda: {"state_dict": state(), "epoch": 3},
    "of the original scripts": lambda: {
        "best_acc": 97.5,
        "state_dict": {
            **{f"module.{key}": value for key, value in state().items()},
            "module.features.block1.conv.activation_quantizer.observer.min_val": torch.zeros(1),
            "module.features.block1.conv.weight_quantizer.scale": torch.ones(16, 1, 1, 1),
        },
    },
    "without counters of batches": lambda: {k: v for k, v in state().items() if "num_batches" not in k},
}


@pytest.mark.parametrize("form", ACCEPTED)
def test_every_form_of_a_file_gives_the_same_network(form, path):
    torch.save(ACCEPTED[form](), path)
    loaded = build(path)
    assert torch.equal(predict(loaded, [TEST.images_NCHW]), predict(trained_model(), [TEST.images_NCHW]))
    if "num_batches" in "".join(ACCEPTED[form]()):
        assert same_state(loaded, trained_model())


def test_other_float_types_become_float32(path):
    torch.save({key: value.bfloat16() if value.is_floating_point() else value for key, value in state().items()}, path)
    weight = build(path).get_parameter("classifier.weight")
    assert weight.dtype == torch.float32
    assert torch.equal(weight, state()["classifier.weight"].bfloat16().float())


def test_a_key_map_renames_prefixes_the_longest_first(path):
    renamed = {key.replace("features.block1", "net.a").replace("features.", "net."): v for key, v in state().items()}
    assert any(key.startswith("net.a.") for key in renamed)
    torch.save({"state_dict": renamed}, path)
    key_map = {"net.": "features.", "net.a": "features.block1"}
    assert same_state(build(path, key_map=key_map), trained_model())
    torch.save({f"backbone.{key}": value for key, value in state().items()}, path)
    assert same_state(build(path, key_map={"backbone.": ""}), trained_model())


def test_a_key_map_that_matches_nothing_or_makes_two_one_is_refused(path):
    torch.save(state(), path)
    with pytest.raises(ValueError, match=r"no key of .*own.pt starts with 'net.'; they are features.block1.conv"):
        build(path, key_map={"net.": "features."})
    with pytest.raises(ValueError, match=r"`model.key_map`: two keys of .*own.pt become 'features.block2.conv.weight'"):
        build(path, key_map={"features.block1.": "features.block2."})


def renamed_key() -> dict[str, Tensor]:
    changed = state()
    changed["head.weight"] = changed.pop("classifier.weight")
    return changed


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (
            state,
            {"classes": 7},
            "own.pt does not fit small_cnn: classifier.weight is 10 x 64 in the file and 7 x 64 in the network, "
            "classifier.bias is 10 in the file and 7 in the network; check the classes and channels of the data set",
        ),
        (renamed_key, {}, "only the network has classifier.weight; only the file has head.weight; .*`model.key_map`"),
        (
            state,
            {"name": "nin"},
            "does not fit nin: only the network has model.0.conv.weight, .* and 50 more; "
            "only the file has features.block1.conv.weight, .* and 16 more",
        ),
        (dict, {}, "own.pt holds a dict, not a state dict; save it with torch.save"),
        (lambda: {"model": state()}, {}, "own.pt holds a dict with the keys model, not a state dict; save it with"),
        (lambda: {"state_dict": 3}, {}, "own.pt holds a dict with the keys state_dict, not a state dict"),
        (lambda: torch.zeros(3), {}, "own.pt holds a Tensor, not a state dict"),
        (
            lambda: np.float64(3),
            {},
            "holds more than plain weights, and reading it could run any program; save it with torch.save",
        ),
    ],
)
def test_weights_that_do_not_fit_name_both_sides(make, settings, message, path):
    torch.save(make(), path)
    with pytest.raises(ValueError, match=message):
        build(path, **settings)


class RunsWhenRead:
    """A pickle of this makes a folder when it is read without care."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_whole_model_and_a_hostile_pickle_are_refused_and_not_run(path, tmp_path):
    for dangerous in (trained_model(), {"state_dict": RunsWhenRead(tmp_path / "made")}):
        torch.save(dangerous, path)
        with pytest.raises(ValueError, match=r"own.pt holds more than plain weights.*; save it with torch.save\(model"):
            build(path)
    assert not (tmp_path / "made").exists()


def test_a_damaged_file_and_a_missing_one_are_told_apart(path):
    torch.save(state(), path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"own.pt is damaged or no file of torch"):
        build(path)
    path.unlink()
    with pytest.raises(ValueError, match=r"`model.weights`: there is no file .*own.pt; save it with"):
        build(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"own.pt is damaged or no file of torch"):
        build(path)


def build_from_torchvision(weights: str, n_classes: int) -> nn.Module:
    spec = ModelSpec(name="torchvision:squeezenet1_1", weights=weights)
    return build_model(spec, in_channels=3, n_classes=n_classes, seed=0)


def test_torchvisions_weights_are_loaded_by_name(monkeypatch):
    theirs = torchvision.models.squeezenet1_1(num_classes=1000)
    weights = torchvision.models.SqueezeNet1_1_Weights
    monkeypatch.setattr(weights, "get_state_dict", lambda self, **_: {**theirs.state_dict()})
    assert same_state(build_from_torchvision("torchvision:DEFAULT", 1000), theirs)
    with pytest.raises(ValueError, match=r"classifier.1.weight is 1000 x 512 x 1 x 1 in the file and 10 x"):
        build_from_torchvision("torchvision:IMAGENET1K_V1", 10)
    with pytest.raises(
        ValueError, match="torchvision:squeezenet1_1 has the weights IMAGENET1K_V1, DEFAULT, and no 'V9'"
    ):
        build_from_torchvision("torchvision:V9", 1000)


def test_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models.SqueezeNet1_1_Weights, "get_state_dict", refuse)
    with pytest.raises(ValueError, match=r"cannot be fetched \(no route to host\); fetch .* and give the path"):
        build_from_torchvision("torchvision:DEFAULT", 1000)


def test_the_fingerprint_is_the_files_sha256_and_follows_its_content(path):
    path.write_bytes(b"one")
    spec = ModelSpec(name="nin", weights=str(path))
    assert fingerprint_weights(spec) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"three")
    assert fingerprint_weights(spec) == hashlib.sha256(b"three").hexdigest()


def test_there_is_no_fingerprint_without_a_file_of_the_users():
    assert fingerprint_weights(ModelSpec(name="nin")) is None
    assert fingerprint_weights(ModelSpec(name="torchvision:resnet18", weights="torchvision:DEFAULT")) is None
    with pytest.raises(ValueError, match=r"`model.weights`: there is no file /no/such.pt; give the path"):
        fingerprint_weights(ModelSpec(name="nin", weights="/no/such.pt"))


def test_a_relative_path_is_made_absolute_when_the_sweep_is_read(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert ModelSpec(name="nin", weights="own.pt").weights == str(tmp_path / "own.pt")


def test_a_fingerprint_needs_no_torch(path):
    path.write_bytes(b"one")
    call = f"quant.fingerprint_weights(quant.ModelSpec(name='nin', weights={str(path)!r}))"
    code = f"import sys, quant; {call}; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert run.stdout.strip() == b"False", run.stderr


def test_own_weights_are_no_control_of_qat_from_scratch(path):
    torch.save(state(), path)
    experiment = {
        "dataset": {"name": "digits", "task": "digit"},
        "model": {"name": "small_cnn", "weights": str(path)},
        "train": {"epochs": 9, "lr": 0.01},
    }
    quant = [{"method": "qat", "init": "scratch"}]
    sweep = parse_sweep({"name": "own", "seeds": [0], "experiments": [experiment], "quant": quant})
    fp32, scratch = make_plan(sweep, {sweep.experiments[0].dataset: "0" * 16})
    assert (scratch.reference_trial_id, scratch.control_trial_id) == (fp32.trial_id, None)
    assert "fp32 was not trained here" in str(scratch.control_reason)


def test_a_trial_with_own_weights_is_only_evaluated(path, tmp_path):
    torch.save(state(), path)
    raw = {
        "name": "own",
        "seeds": [0],
        "experiments": [
            {
                "dataset": {"name": "digits", "task": "digit", "test_share": 0.5},
                "model": {"name": "small_cnn", "weights": str(path)},
                "train": {"epochs": 9, "lr": 0.01},
            }
        ],
        "quant": [{"method": "ptq", "bits": 8}],
    }
    sweep = parse_sweep(raw)
    store = Store.open(str(tmp_path / "store"))
    plan = make_plan(sweep, {e.dataset: load_dataset(e.dataset).dataset_id for e in sweep.experiments})
    assert [run_trial(trial, store, Resources()).status for trial in plan] == ["ok", "ok"]
    fp32, ptq = store.read_trials().sort_by("method").to_pylist()
    assert (fp32["method"], fp32["train_s"], fp32["selected_epoch"]) == ("fp32", 0, None)
    assert fp32["accuracy"] > 0.9
    assert abs(ptq["accuracy"] - fp32["accuracy"]) < 0.05
    stage = torch.load(tmp_path / "store" / "stages" / f"{fp32['trial_id']}.pt", weights_only=True)
    assert all(torch.equal(stage[key], value) for key, value in state().items())

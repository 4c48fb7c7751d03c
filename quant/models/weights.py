"""A user's own weights: a file, or torchvision's, into a network that is built already.

Taken are a state dict, {"state_dict": ...}, and what the original scripts save, {"best_acc": ..., "state_dict": ...}
with the ranges of their quantizers among the weights. Only plain weights are read: a pickle can run any program.
"""

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantfair.quant.specs.model import ModelSpec

State = dict[str, Tensor]

_N_NAMED = 4  # keys that an error lists before it counts
_QUANTIZER_PARTS = (".activation_quantizer.", ".weight_quantizer.")  # of the original scripts: no part of a float model


def load_own_weights(model: nn.Module, spec: ModelSpec) -> None:
    """Load `spec.weights` into `model`.

    Raises ValueError: naming the file and the remedy where it cannot be read, naming both sides where it does not fit.
    """
    assert spec.weights is not None
    is_file = not spec.has_torchvision_weights
    state = _rename(_read(Path(spec.weights)), spec) if is_file else _fetch_from_torchvision(spec)
    _check_fits(state, model, spec)
    model.load_state_dict(state, strict=False)  # what is missing now is only counters of batches


def _fetch_from_torchvision(spec: ModelSpec) -> State:
    import torchvision.models

    assert spec.weights is not None
    weights = torchvision.models.get_model_weights(spec.name.removeprefix("torchvision:"))
    name = spec.weights.removeprefix("torchvision:")
    if name not in weights.__members__:
        known = ", ".join(weights.__members__)
        raise ValueError(f"`model.weights`: {spec.name} has the weights {known}, and no '{name}'")
    try:
        return dict(weights[name].get_state_dict(progress=False, check_hash=True, weights_only=True))
    except OSError as error:
        raise ValueError(
            f"`model.weights`: '{spec.weights}' cannot be fetched ({error}); "
            f"fetch {weights[name].url} elsewhere and give the path of the file"
        ) from error


def _read(path: Path) -> State:
    """Return the tensors of a file by name, without `module.` prefixes and without the original's quantizers."""
    loaded = _load(path)
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"`model.weights`: {path} holds {_describe(loaded)}, not a state dict; {_REMEDY}")
    plain = {key.removeprefix("module."): value for key, value in state.items()}
    return {key: value for key, value in plain.items() if not any(part in key for part in _QUANTIZER_PARTS)}


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"`model.weights`: there is no file {path}; {_REMEDY}") from error
    except pickle.UnpicklingError as error:
        message = f"`model.weights`: {path} holds more than plain weights, and reading it could run any program"
        raise ValueError(f"{message}; {_REMEDY}") from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"`model.weights`: {path} is damaged or no file of torch ({error}); {_REMEDY}") from error


_REMEDY = "save it with torch.save(model.state_dict(), path)"


def _describe(loaded: object) -> str:
    keys = f" with the keys {_some(map(str, loaded))}" if isinstance(loaded, dict) and loaded else ""
    return f"a {type(loaded).__name__}{keys}"


def _rename(state: State, spec: ModelSpec) -> State:
    """Replace the longest prefix of each key that stands in `key_map`."""
    for old, _ in spec.key_map:
        if not any(key.startswith(old) for key in state):
            raise ValueError(f"`model.key_map`: no key of {spec.weights} starts with '{old}'; they are {_some(state)}")
    longest_first = sorted(spec.key_map, key=lambda pair: -len(pair[0]))
    renamed: State = {}
    for key, value in state.items():
        old, new = next(((old, new) for old, new in longest_first if key.startswith(old)), ("", ""))
        name = new + key[len(old) :]
        if name in renamed:
            raise ValueError(f"`model.key_map`: two keys of {spec.weights} become '{name}'")
        renamed[name] = value
    return renamed


def _check_fits(state: State, model: nn.Module, spec: ModelSpec) -> None:
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in wanted]
    shapes = [
        f"{key} is {_shape(state[key])} in the file and {_shape(wanted[key])} in the network"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    found = [f"only the network has {_some(missing)}"] if missing else []
    found += [f"only the file has {_some(unexpected)}"] if unexpected else []
    found += [_some(shapes)] if shapes else []
    if found:
        remedy = "check the classes and channels of the data set, `model.width`, or rename keys with `model.key_map`"
        raise ValueError(f"`model.weights`: {spec.weights} does not fit {spec.name}: {'; '.join(found)}; {remedy}")


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a single number"


def _some(names: Iterable[str]) -> str:
    """List the first few names and count the others."""
    names = list(names)
    more = f" and {len(names) - _N_NAMED} more" if len(names) > _N_NAMED else ""
    return ", ".join(names[:_N_NAMED]) + more

"""Whether the model and the quantization of a sweep fit its data: asked once the data is loaded, before a trial starts.

The settings of one section are checked by its own spec; here are the rules that two of them make together. No torch.
"""

from collections.abc import Iterable, Iterator

from quantfair.datasets import DataError, GroupedDataset, find_target
from quantfair.orchestrator.config.errors import ConfigProblem, did_you_mean
from quantfair.quant import MULTI_HEAD, ModelSpec, PtqSpec, QatSpec


def find_incompatibilities(
    model: ModelSpec, quant: Iterable[PtqSpec | QatSpec], dataset: GroupedDataset
) -> list[ConfigProblem]:
    """Return everything about a model and its quantization that cannot work with this data, naming both sides."""
    balances = dict.fromkeys(spec.calib_balance for spec in quant)
    found = (
        _find_missing_heads(model, dataset),
        _find_misnormalized(model, dataset),
        _find_unknown_groupings(balances, dataset),
    )
    return [problem for problems in found for problem in problems]


def _find_missing_heads(model: ModelSpec, dataset: GroupedDataset) -> Iterator[ConfigProblem]:
    heads, name = MULTI_HEAD.get(model.name, ()), dataset.name
    if heads and dataset.task not in heads:
        message = f"{model.name} has the heads {', '.join(heads)}, and the task of {name} is '{dataset.task}'"
        yield ConfigProblem("model.name", f"{message}: take another task or model.")
        return
    missing = [head for head in model.trained_heads if find_target(name, head) not in dataset.attributes]
    if missing:
        message = f"'all' trains the heads {', '.join(heads)} of {model.name}, and {name} has no {', '.join(missing)}"
        yield ConfigProblem("model.heads", f"{message}: set heads = 'task'.")


def _find_misnormalized(model: ModelSpec, dataset: GroupedDataset) -> Iterator[ConfigProblem]:
    try:
        dataset.normalization(model.preprocess.mean, model.preprocess.std)
    except DataError as error:
        yield ConfigProblem("model.preprocess", str(error))


def _find_unknown_groupings(balances: Iterable[str], dataset: GroupedDataset) -> Iterator[ConfigProblem]:
    known = ["uniform", *dataset.attributes]
    for balance in balances:
        for part in balance.split("*"):
            if part not in known or (part == "uniform" and part != balance):
                allowed = (
                    f"uniform or a grouping of {dataset.name} ({', '.join(dataset.attributes)}, or a crossing 'a*b')"
                )
                yield ConfigProblem(
                    "quant.calib_balance", f"must be {allowed}, got {balance!r}.{did_you_mean(part, known)}"
                )

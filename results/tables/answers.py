"""What every trial of a data set answered, image by image: the ground that all statistics stand on.

Legend: N test images in the order of their sample_id, V val images.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np

from quantfair.results.schema import COMPARISONS
from quantfair.results.store.files import StoreError
from quantfair.results.store.store import Store
from quantfair.results.tables.groupings import TestSet

_N_THREADS: Final = 4
_READ_AHEAD: Final = 32  # trials; one holds 0.5 MB of 10,000 images


class TrialAnswers(NamedTuple):
    """One trial's answers to the test images, in types that let a thousand trials stay in memory.

    `refit_N` are the answers after offsets for each class were fitted on val, None where the logits were not known;
    `kl_N` is nan without a reference; `val_right_V` None where the val images were not predicted.
    """

    trial_id: str
    runtime: str
    predicted_N: np.ndarray
    right_N: np.ndarray
    refit_N: np.ndarray | None
    loss_N: np.ndarray
    kl_N: np.ndarray
    val_right_V: np.ndarray | None


class Certainty(NamedTuple):
    """How sure a trial was of the test images; needed once, so not kept."""

    confidence_N: np.ndarray
    margin_N: np.ndarray
    entropy_N: np.ndarray


class DatasetAnswers(NamedTuple):
    """A data set with the rows of its finished trials, in the order of the plan, and what each of them answered."""

    test_set: TestSet
    trials: Sequence[Mapping[str, Any]]
    outcomes: Mapping[str, TrialAnswers]
    deployed: "Sequence[Deployed]" = ()

    @property
    def sides(self) -> "dict[str, Side]":
        """What trials are compared with, by comparison."""
        return {comparison: Side(column, self.outcomes) for comparison, column in COMPARISONS.items()}

    def compared(self) -> Iterator["Compared"]:
        """Yield every trial with each trial that it is compared with, whether or not that one has a result."""
        return _compare(self)


class Side(NamedTuple):
    """The other side of a comparison: the column of `trials` that names it, and the answers by trial."""

    column: str
    outcomes: Mapping[str, TrialAnswers]


class Deployed(NamedTuple):
    """What the trials of a data set that have a result in one deployed runtime answered there.

    They are compared with torch: with the answers of the reference and the control, and with their own (`twin`); in
    ONNX Runtime also with those of the exact session. `without` are trials that will have no result there.
    """

    runtime: str
    measured: DatasetAnswers
    trials: Sequence[Mapping[str, Any]]
    outcomes: Mapping[str, TrialAnswers]
    exact: Mapping[str, TrialAnswers]
    without: Set[str]

    @property
    def sides(self) -> dict[str, Side]:
        """What trials are compared with, by comparison."""
        exact = {"exact": Side("trial_id", self.exact)} if self.exact else {}
        return {**self.measured.sides, "twin": Side("trial_id", self.measured.outcomes), **exact}

    @property
    def test_set(self) -> TestSet:
        """That of the data set."""
        return self.measured.test_set

    def compared(self) -> Iterator["Compared"]:
        """Yield as `DatasetAnswers.compared`."""
        return _compare(self)


def _compare(measured: DatasetAnswers | Deployed) -> Iterator["Compared"]:
    sides = measured.sides
    for row in measured.trials:
        for comparison, side in sides.items():
            if other_id := row[side.column]:
                yield Compared(measured.outcomes[row["trial_id"]], comparison, other_id, side.outcomes.get(other_id))


class Compared(NamedTuple):
    """A trial and the other side of one comparison, None where that has no result."""

    outcomes: TrialAnswers
    comparison: str
    other_trial_id: str
    other: TrialAnswers | None

    @property
    def key(self) -> dict[str, str]:
        """The columns by which tables tell comparisons apart."""
        return {"trial_id": self.outcomes.trial_id, "runtime": self.outcomes.runtime, "comparison": self.comparison}

    @property
    def why_missing(self) -> str:
        """Why there is nothing to compare with."""
        return f"the {self.comparison} trial {self.other_trial_id} failed or has not run"


def read_all_outcomes(
    store: Store, trial_ids: Sequence[str], runtime: str, test_set: TestSet
) -> Iterator[tuple[TrialAnswers, Certainty]]:
    """Yield what `read_outcomes` returns, in this order; a few trials are read ahead, by threads."""
    with ThreadPoolExecutor(_N_THREADS) as pool:
        for at in range(0, len(trial_ids), _READ_AHEAD):
            some = trial_ids[at : at + _READ_AHEAD]
            yield from pool.map(lambda trial_id: read_outcomes(store, trial_id, runtime, test_set), some)


def read_outcomes(store: Store, trial_id: str, runtime: str, test_set: TestSet) -> tuple[TrialAnswers, Certainty]:
    """Read a trial's predictions. Raises StoreError if they are not of exactly the data set's test images."""
    table = store.read_predictions(trial_id, runtime)  # whole, so that damage anywhere in it is noticed
    table = table.drop_columns(["trial_id", "runtime", "logits"]).sort_by("sample_id")
    is_test = table["split"].to_numpy() == "test"
    val, table = table.filter(~is_test), table.filter(is_test)
    for name, part, ids_N in (("test", table, test_set.sample_ids_N), ("val", val, test_set.val_ids_V)):
        if not np.array_equal(part["sample_id"].to_numpy(), ids_N) and (len(part) or name == "test"):
            raise StoreError(
                f"Trial {trial_id} ({runtime}) predicted other images than the {name} images of data set "
                f"{test_set.dataset_id}. Delete trials/{trial_id}.parquet and run the sweep again: only that "
                "trial runs."
            )
    predicted_N, refit = table["predicted"].to_numpy(), table["predicted_refit"]
    outcomes = TrialAnswers(
        trial_id,
        runtime,
        predicted_N,
        predicted_N == test_set.labels_N,
        None if refit.null_count else refit.to_numpy(),
        table["loss_nats"].to_numpy(),
        table["kl_nats"].to_numpy(),
        val["predicted"].to_numpy() == test_set.grouping("label").val_V if len(val) else None,
    )
    certainty = (table[name].to_numpy().astype(np.float64) for name in ("confidence", "margin", "entropy_nats"))
    return outcomes, Certainty(*certainty)

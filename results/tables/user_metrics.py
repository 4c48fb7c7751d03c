"""The numbers of a user's own metrics: means of every group, differences from other trials, and how uneven those are.

Legend: N test images, P pairs, G groups. A difference is the trial's value less the other side's.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from quantfair.results.schema import MIN_RANKED
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.answers import Certainty, Compared, DatasetAnswers, Deployed, TrialAnswers
from quantfair.results.tables.groupings import Grouping, TestSet
from quantfair.results.tables.groups import add_mean, average, join_reasons
from quantfair.results.user_data.metrics import OwnMetric, measure

NO_WORST = "no worst group: whether more is better is the metric's own affair"
NO_TEST = "no p and no floor: no test holds for means of small groups; for intervals see own_metrics"
NO_LOGITS = "the metric needs logits, and one side was imported without"
TOO_FEW = f"fewer than two groups with {MIN_RANKED} test images"


class _Difference(NamedTuple):
    """Of every image, in one comparison; None without a result of the other side. `flag`: why to take it with care."""

    pair: Compared
    values_N: np.ndarray | None
    flag: str | None


class OwnValues:
    """What a user's metrics say of the images of one data set, trial by trial."""

    def __init__(self, metrics: Sequence[OwnMetric], samples: pa.Table, test_set: TestSet):
        self.metrics, self.test_set = metrics, test_set
        self._images = _describe_images(samples, test_set) if metrics else pd.DataFrame()
        self._values: dict[tuple[str, str, str], np.ndarray] = {}  # by metric and trial

    def add_trial(self, outcomes: TrialAnswers, certainty: Certainty, rows: TableBuilder) -> None:
        """Measure one trial, and add its means to `group_metrics`. Raises StoreError as `measure`."""
        if not self.metrics:
            return
        images = self._images.assign(**_describe_answers(outcomes, certainty, self.test_set))
        for metric in self.metrics:
            values_N = measure(metric, images, outcomes.trial_id)
            self._values[metric.name, outcomes.runtime, outcomes.trial_id] = values_N
            for grouping in self.test_set.groupings:
                add_mean(outcomes, metric.name, values_N, grouping, rows, centre=float(np.median(values_N)))

    def add_pairs(
        self,
        measured: DatasetAnswers | Deployed,
        flags: Mapping[tuple[str, str], str],
        *,
        own: TableBuilder,
        disparity: TableBuilder,
    ) -> None:
        """Add every comparison to `own_metrics` and `disparity`. `flags`: why to take one with care, as in `shifts`."""
        for metric in self.metrics:
            pairs = (pair for pair in measured.compared() if pair.comparison != "exact")
            differences = [self._subtract(metric.name, pair, flags) for pair in pairs]
            for grouping in self.test_set.groupings:
                for difference in differences:
                    _add_means(own, metric.name, difference, grouping)
                if grouping.name != "overall":
                    _add_spreads(disparity, metric.name, differences, grouping)

    def _subtract(self, name: str, pair: Compared, flags: Mapping[tuple[str, str], str]) -> _Difference:
        if pair.other is None:
            return _Difference(pair, None, pair.why_missing)
        own, other = (self._values[name, side.runtime, side.trial_id] for side in (pair.outcomes, pair.other))
        values_N = own - other
        if np.isnan(values_N).any():
            return _Difference(pair, None, NO_LOGITS)
        return _Difference(pair, values_N, flags.get((pair.outcomes.trial_id, pair.comparison)))


def _describe_images(samples: pa.Table, test_set: TestSet) -> pd.DataFrame:
    """The columns of a user's frame that are the same for every trial."""
    images = samples.sort_by("sample_id").to_pandas()
    images = images[images["split"] == "test"].drop(columns=["dataset_id", "split", "source"])
    names = np.array(test_set.grouping("label").names, dtype=object)
    return images.assign(label_name=names[images["label"]]).reset_index(drop=True)


def _describe_answers(outcomes: TrialAnswers, certainty: Certainty, test_set: TestSet) -> dict[str, Any]:
    return {
        "predicted": outcomes.predicted_N,
        "predicted_name": np.array(test_set.grouping("label").names, dtype=object)[outcomes.predicted_N],
        "loss_nats": outcomes.loss_N.astype(np.float64),
        "confidence": certainty.confidence_N,
        "margin": certainty.margin_N,
        "entropy_nats": certainty.entropy_N,
    }


def _add_means(own: TableBuilder, metric: str, difference: _Difference, grouping: Grouping) -> None:
    """Add the mean difference of every group, with the t interval of paired differences."""
    n_G, pair = grouping.sizes("test"), difference.pair
    columns: dict[str, Any] = {"reason": difference.flag}
    if difference.values_N is not None:
        mean_G, ci, why_G = average(difference.values_N, grouping, centre=float(np.median(difference.values_N)))
        columns = {"difference": mean_G, "ci_low": ci.low, "ci_high": ci.high}
        columns["reason"] = [join_reasons(difference.flag, why) or None for why in why_G]
    shared = {**pair.key, "other_trial_id": pair.other_trial_id, "grouping": grouping.name, "metric": metric}
    own.add(len(n_G), **shared, group=list(grouping.names), n=n_G, **columns)


def _add_spreads(disparity: TableBuilder, metric: str, differences: Sequence[_Difference], grouping: Grouping) -> None:
    """Add the largest minus the smallest mean difference of the ranked groups."""
    ranked_G = grouping.sizes("test") >= MIN_RANKED
    n_ranked = int(ranked_G.sum())
    for pair, values_N, flag in differences:
        shared: dict[str, Any] = {**pair.key, "grouping": grouping.name, "metric": metric, "n_groups": n_ranked}
        if values_N is None or n_ranked < 2:
            disparity.add(1, **shared, reason=join_reasons(flag, None if values_N is None else TOO_FEW))
            continue
        mean_G = average(values_N, grouping)[0][ranked_G]
        disparity.add(1, **shared, value=float(np.ptp(mean_G)), reason=join_reasons(flag, NO_TEST, NO_WORST))

"""The numbers of a user's own metrics: means of every group, differences from other trials, and how uneven those are.

Legend: N test images, P pairs, G groups. A difference is the trial's value less the other side's.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from quantfair.results.schema import MIN_RANKED
from quantfair.results.statistics.permutation import measure_evenness
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.answers import Certainty, Compared, DatasetAnswers, Deployed, TrialAnswers
from quantfair.results.tables.groupings import Grouping, TestSet
from quantfair.results.tables.groups import add_mean, average, join_reasons
from quantfair.results.user_data.metrics import OwnMetric, measure

NO_WORST = "no worst group: whether more is better is the metric's own affair"
NO_FLOOR = "no noise floor: the metric is the same for every image"
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
    """Add the largest minus the smallest mean difference of the ranked groups, with what chance alone would show."""
    ranked_G = grouping.sizes("test") >= MIN_RANKED
    codes_N = np.where(ranked_G[grouping.test_N], grouping.test_N, -1)
    known = [difference.values_N for difference in differences if difference.values_N is not None]
    floors = iter(_find_floors(known, codes_N, len(ranked_G)) if known and ranked_G.sum() >= 2 else ())
    n_ranked = int(ranked_G.sum())
    for pair, values_N, flag in differences:
        shared: dict[str, Any] = {**pair.key, "grouping": grouping.name, "metric": metric, "n_groups": n_ranked}
        if values_N is None or n_ranked < 2:
            disparity.add(1, **shared, reason=join_reasons(flag, None if values_N is None else TOO_FEW))
            continue
        mean_G = average(values_N, grouping)[0][ranked_G]
        value, floor = float(np.ptp(mean_G)), next(floors)
        corrected = max(value - floor["null_mean"], 0.0) if values_N.any() else 0.0
        reason = join_reasons(flag, None if values_N.any() else NO_FLOOR, NO_WORST)
        disparity.add(1, **shared, value=value, corrected=corrected, **floor, reason=reason)


def _find_floors(differences: Sequence[np.ndarray], codes_N: np.ndarray, n_groups: int) -> list[dict[str, float]]:
    """Return the columns that say what chance alone would show, of each comparison.

    Differences are first divided by the largest one, since the test is in float32. Where that is 0 there is no floor:
    nothing says how large a difference of this metric can be.
    """
    values_NP = np.stack(differences, axis=1)
    scale_P = np.abs(values_NP).max(axis=0, initial=0)
    scale_P[scale_P == 0] = np.nan
    found = measure_evenness(np.nan_to_num(values_NP / scale_P).astype(np.float32), codes_N, n_groups)
    columns = zip(found.null_mean * scale_P, found.null_q95 * scale_P, found.p, strict=True)
    return [dict(zip(("null_mean", "null_q95", "perm_p"), map(float, column), strict=True)) for column in columns]

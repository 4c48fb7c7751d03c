"""A trial's test images -> fairlearn's MetricFrame, for whoever has metrics of their own to look at by group."""

from collections.abc import Callable
from typing import Any

from quantfair.results.frames import Frames, read
from quantfair.results.store import Store

Metrics = Callable[..., Any] | dict[str, Callable[..., Any]]


def to_fairlearn(
    store: str | Store | Frames, trial_id: str, *, grouping: str, metrics: Metrics | None = None, runtime: str = "torch"
) -> Any:
    """Return `fairlearn.metrics.MetricFrame` of a trial's test images; y_true and y_pred are class indices.

    An intersection such as "ethnicity*gender" becomes one sensitive feature for each attribute. `metrics` is what
    MetricFrame takes, by default the accuracy and the number of images; its `by_group` of the accuracy is that of the
    table `group_metrics`. fairlearn has no comparison with a reference, no noise floor, and no check of small groups.

    Raises:
        ModuleNotFoundError: fairlearn is not installed.
        StoreError: there is no such trial.
        ValueError: the data set has no such attribute.
    """
    try:
        from fairlearn.metrics import MetricFrame, count
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("fairlearn is not installed: `pip install fairlearn`, then try again.") from error
    from sklearn.metrics import accuracy_score

    frames = store if isinstance(store, Frames) else read(store)
    images = frames.predictions(trial_id, runtime)
    names = [name if name != "label" else "label_name" for name in grouping.split("*")]
    known = [name for name in images if images[name].dtype == "category" and name != "predicted_name"]
    if unknown := [name for name in names if name not in known]:
        attributes = [name if name != "label_name" else "label" for name in known]
        raise ValueError(f"`grouping` must be of {attributes}, or of some joined by *, got {unknown[0]!r}.")
    features: Any = images[names].astype(str)
    return MetricFrame(
        metrics={"accuracy": accuracy_score, "count": count} if metrics is None else metrics,
        y_true=images["label"].to_numpy(),
        y_pred=images["predicted"].to_numpy(),
        sensitive_features=features.rename(columns={"label_name": "label"}),
    )

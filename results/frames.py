"""A store's tables as pandas frames, for notebooks: `r = results.read("results/runs/mnist")`, then `r.paired_metrics`.

One frame a table, read when it is first asked for, with the columns of `results/schema.py`. Null is NaN or None here.
Texts that repeat are categories. The statistics are of the test images.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, overload

import pandas as pd
import pyarrow as pa

from quantfair.results.configurations import NAMING_COLUMNS, name_within_models, order_trials
from quantfair.results.refresh import update_report
from quantfair.results.store.files import DamagedError, MissingError, StoreError
from quantfair.results.store.store import Store
from quantfair.results.user_data.groups import add_custom_groups

# What `with_settings` adds; of a configuration all but the seed.
SETTINGS_COLUMNS: Final = (
    *("configuration", "dataset", "task", "model", "float_model", "method", "weight_bits", "act_bits"),
    *NAMING_COLUMNS,
    "seed",
)


def read(store: "str | Path | Store", *, metrics: Sequence[str] = (), limit_pp: float | None = None) -> "Frames":
    """Return the tables of a store (a path, a URI or a Store), brought up to date first as by `report`.

    `metrics` are your own, each `package.module:function`, as of `report --metric`; `limit_pp` is the limit of a loss,
    as of `report --limit`.

    Raises:
        StoreError: there is no sweep, or a file is damaged: `python -m orchestrator report STORE` puts it away.
        WriteError: tables are missing or outdated, and cannot be written.
    """
    opened = store if isinstance(store, Store) else Store.open(str(store))
    opened.read_manifest()
    try:
        update_report(opened, metrics=metrics, limit_pp=limit_pp)
    except DamagedError as error:
        raise StoreError(f"{error} Or leave its trial out: {_format_report(opened)}") from error
    return Frames(opened)


class _Table:
    """An attribute that reads its table once, the first time that it is asked for."""

    def __init__(self, doc: str):
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, frames: None, owner: type) -> "_Table": ...
    @overload
    def __get__(self, frames: "Frames", owner: type) -> pd.DataFrame: ...
    def __get__(self, frames: "Frames | None", owner: type) -> "_Table | pd.DataFrame":
        if frames is None:
            return self
        frame = frames.__dict__[self.name] = to_frame(frames.read_table(self.name))
        return frame


class Frames:
    """The tables of one store, each an attribute; `with_settings` joins them with what tells their trials apart."""

    trials = _Table("One row a trial: its settings, status, accuracy and times.")
    groups = _Table("The number of images of every group, by split.")
    samples = _Table("One row an image: split, label (class index) and its groups.")
    runtimes = _Table("One row a trial and runtime: latency and size.")
    layers = _Table("What was done to each layer of a trial, and its signal-to-noise ratio in dB.")
    sensitivity = _Table("What each group of val images loses where one layer alone is quantized.")
    mechanism = _Table("By trial and group: statistics that may explain a drop.")
    group_metrics = _Table("By trial, grouping and group: accuracy, recall and others in [0, 1], with intervals.")
    reliability = _Table("By configuration, group and bin of confidence: mean confidence beside accuracy, in [0, 1].")
    shifts = _Table("By pair of trials, group and class: the shift of the share predicted as it, in pp.")
    paired_metrics = _Table("By trial, comparison and group: the drop and the excess accuracy gap in pp, with tests.")
    disparity = _Table("By trial, comparison and grouping: how far groups are apart, with the noise floor and p.")
    families = _Table("What is corrected together for many tests.")
    contrasts = _Table("By pair of configurations and group: drops over the seeds in pp, with intervals.")
    contrast_disparity = _Table("By pair of configurations and grouping: how unevenly drops are spread, with p.")
    spreads = _Table("By configuration and group: the standard deviation of a drop over seeds, in pp.")
    verdicts = _Table("By file or recipe, comparison and grouping: a word, its answer and its sentence.")
    choices = _Table("The configuration that is best on val, and what it does on test.")
    correlations = _Table("Over the groups: what the reference says of them and what they lose.")
    own_metrics = _Table("By comparison and group: a metric of yours, `metrics`, on both sides and their difference.")
    provenance = _Table("Versions, hardware and counts, as key and value.")

    def __init__(self, store: Store):
        self.store = store

    def __repr__(self) -> str:
        return f"Frames of {self.store.location}: {', '.join(self.table_names())}"

    @classmethod
    def table_names(cls) -> list[str]:
        """Return the names of the tables."""
        return [name for name, value in vars(cls).items() if isinstance(value, _Table)]

    def read_table(self, name: str) -> pa.Table:
        """Return a table as it is stored. Raises StoreError where it is missing or damaged."""
        try:
            return self.store.read_table(name)
        except DamagedError as error:
            place = self.store.files.describe(error.path)
            raise StoreError(f"{place} {error.why}. Make it anew: {_format_report(self.store)}") from error

    def with_settings(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return a frame that has a trial_id or a config_id with the settings of that trial or configuration beside it.

        `configuration` is its name in words, such as "PTQ 4, percentile", `float_model` the network with what varies of
        it and of its training. Columns that the frame has already stay as they are.
        """
        key = next((key for key in ("trial_id", "config_id") if key in frame), None)
        if key is None:
            raise ValueError(f"The frame must have a column trial_id or config_id, it has {list(frame.columns)}.")
        trials = order_trials(self.read_table("trials"))
        names = name_within_models(trials)
        wanted = [*(("config_id",) if key == "trial_id" else ()), *SETTINGS_COLUMNS]
        rows = [{**trial, "configuration": names[trial["config_id"]]} for trial in trials]
        added = [name for name in wanted if name not in frame and (key == "trial_id" or name != "seed")]
        settings: Any = pd.DataFrame(rows, columns=pd.Index([key, *added])).drop_duplicates(key).set_index(key)
        texts = {name: "category" for name in added if not pd.api.types.is_numeric_dtype(settings[name])}
        beside = settings.astype(texts).reindex(frame[key].astype(object)).set_axis(frame.index)
        return pd.concat([frame, beside], axis=1)

    def predictions(self, trial_id: str, runtime: str = "torch", *, split: str | None = "test") -> pd.DataFrame:
        """Return what a trial answered, one row an image in the order of sample_id, with who the images are.

        Columns: those of the predictions, `label` and `predicted` (class indices), `label_name` and `predicted_name`,
        `right`, and one for each attribute of the data set, `report --groups` included. `split=None` adds val images.

        Raises:
            StoreError: there is no such finished trial, or its predictions are damaged.
        """
        row = self.store.read_trial(trial_id)
        if row is None or row["status"] != "ok":
            raise StoreError(f"Trial {trial_id!r} is not finished in {self.store.location}: `.trials` lists the ids.")
        try:
            table = self.store.read_predictions(trial_id, runtime)
        except MissingError as error:
            raise StoreError(f"Trial {trial_id} has no predictions of the runtime {runtime!r}: try 'torch'.") from error
        frame: Any = table.drop_columns(["split"]).to_pandas()
        frame = self._read_images(row["dataset_id"]).merge(frame, on="sample_id").sort_values("sample_id")
        names = frame["label_name"].cat.categories
        predicted = pd.Categorical.from_codes(frame["predicted"].astype(int), names)
        frame.insert(frame.columns.get_loc("predicted") + 1, "predicted_name", predicted)
        frame.insert(frame.columns.get_loc("predicted") + 2, "right", frame["predicted"] == frame["label"])
        return frame[(frame["split"] == split) | (split is None)].reset_index(drop=True)

    def _read_images(self, dataset_id: str) -> Any:
        """Return who the images are: groups as categories in their order."""
        samples, attributes, _ = add_custom_groups(self.store, dataset_id)
        images: Any = samples.drop_columns(["dataset_id", "source"]).to_pandas()
        images.insert(3, "label_name", pd.Categorical.from_codes(images["label"].astype(int), attributes["label"]))
        for name in attributes:
            if name != "label":
                images[name] = pd.Categorical(images[name], attributes[name])
        return images


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Return a table as a frame; texts of which half or more repeat are categories, in the order of their first row."""
    table = table.combine_chunks()
    for place, field in enumerate(table.schema):
        if field.type == pa.string() and len(table):
            encoded = table.column(place).combine_chunks().dictionary_encode()
            if 2 * len(encoded.dictionary) <= len(table):
                table = table.set_column(place, field.name, encoded)
    return table.to_pandas()


def _format_report(store: Store) -> str:
    command = f"report {store.location}"
    return f"run `python -m orchestrator {command}` in a checkout, or `quantfair {command}` where that is installed."


Metrics = Callable[..., Any] | dict[str, Callable[..., Any]]


def to_fairlearn(
    store: str | Path | Store | Frames,
    trial_id: str,
    *,
    grouping: str,
    metrics: Metrics | None = None,
    runtime: str = "torch",
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

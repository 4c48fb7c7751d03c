"""Every table a sweep writes, as pyarrow schemas: the one place for names, types and keys of columns.

Units stand in names; accuracies are fractions in [0, 1], percentage points only in `_pp`; what is missing is null with
a `reason`, never NaN.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Final, Literal

import pyarrow as pa

SCHEMA_VERSION: Final = 3

_STR, _F64, _F32 = pa.string(), pa.float64(), pa.float32()
_I8, _I16, _I32 = pa.int8(), pa.int16(), pa.int32()


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of a trial: where it is set, its column in `trials`, and what people call it.

    `source` is its path in the settings of a trial, which its `config` holds too: "quant.NAME" where nothing is said.
    Without a `type` it has no column, and is read from `config`, which names it only where it is not at its default.
    `words` stand before its value in the name of a configuration; None where the name says it in another way, or where
    it is no setting of a configuration. In a name, settings of a lower `rank` come first, those of equal rank in the
    order of `SETTINGS`. `only_of` is the method that alone has it, or "recipe": the course of training that QAT, its
    control and PTQ on that control share. The filters of the page read what is `on_page`.
    """

    name: str
    _: KW_ONLY
    type: pa.DataType | None = None
    source: str = ""
    words: str | None = None
    rank: int = 0
    only_of: Literal["ptq", "qat", "recipe"] | None = None
    on_page: bool = False

    @property
    def path(self) -> tuple[str, str]:
        """Return the section of a trial's settings, "" for the trial itself, and the name of the field there."""
        section, _, field = (self.source or f"quant.{self.name}").rpartition(".")
        return section, field


# The settings that tables and page show, in the order of the columns of `trials`. Everything else that lists settings
# is made of this: columns, names of configurations, the columns that `with_settings` adds, filters and contrasts.
SETTINGS: Final = (
    Setting("dataset", type=_STR, source="dataset.name"),
    Setting("task", type=_STR, source="dataset.task"),
    Setting("model", type=_STR, source="model.name"),
    Setting("method", type=_STR),
    Setting("base", type=_STR, words="base ", rank=1, only_of="ptq"),
    Setting("init", type=_STR, words="init ", rank=1, only_of="qat"),
    Setting("weight_bits", type=_I8, on_page=True),
    Setting("act_bits", type=_I8, on_page=True),
    Setting("scheme", type=_STR, words="", on_page=True),
    Setting("granularity", type=_STR, words=""),
    Setting("weight_observer", type=_STR, words="weights ", rank=-1),
    Setting("act_observer", type=_STR, words="", rank=-2, on_page=True),
    Setting("bn_fold", type=_STR, words="BN "),
    Setting("act_signed", type=_STR, words="signed "),
    Setting("preset", type=_STR, words="preset "),
    Setting("seed", type=_I32, source="seed"),
    Setting("imbalance", type=_STR, source="dataset.imbalance"),
    # No columns of their own.
    Setting("bias_correction", words="bias correction ", only_of="ptq"),
    Setting("calib_balance", words="calib balance "),
    Setting("calib_batch_size", words="calib batch size "),
    Setting("calib_images", words="calib images "),
    Setting("calib_seed", words="calib seed "),
    Setting("epochs", words="epochs ", only_of="recipe"),
    Setting("first_last_bits", words="first last bits "),
    Setting("freeze_bn_after", words="freeze bn after ", only_of="recipe"),
    Setting("freeze_observers_after", words="freeze observers after ", only_of="qat"),
    Setting("lr", words="lr ", only_of="recipe"),
    Setting("milestones", words="milestones ", only_of="recipe"),
    Setting("overrides", words="overrides "),
    Setting("percentile", words="percentile "),
    Setting("quantize_adds", words="quantize adds "),
    Setting("rounding", words="rounding ", only_of="ptq"),
    Setting("scales", words="scales ", only_of="qat"),
    Setting("schedule", words="schedule ", only_of="recipe"),
    Setting("select", words="select ", only_of="recipe"),
)


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(list(columns.items()), metadata={"schema_version": str(SCHEMA_VERSION)})


TRIALS = _schema(
    trial_id=_STR, config_id=_STR, status=_STR, error=_STR, traceback=_STR, attempt=_I32,
    reference_trial_id=_STR, control_trial_id=_STR, control_reason=_STR, dataset_id=_STR,
    **{setting.name: setting.type for setting in SETTINGS if setting.type is not None},
    n_test=_I32, accuracy=_F64, macro_accuracy=_F64, loss_nats=_F64, selected_epoch=_I32,
    train_s=_F64, calibrate_s=_F64, evaluate_s=_F64, total_s=_F64, device=_STR, size_bytes=pa.int64(),
    config=_STR, code_version=_STR,
)  # fmt: skip
GROUPS = _schema(dataset_id=_STR, split=_STR, grouping=_STR, group=_STR, group_index=_I32, n=_I32)
# `label` and `predicted` are class indices: the names are the groups of the grouping `label`, by `group_index`.
SAMPLES = _schema(  # plus one string column for each group attribute
    dataset_id=_STR, sample_id=_I32, split=_STR, label=_I16, source=_STR,
)  # fmt: skip
# `predicted_refit` is the class after an offset for each class, fitted on the val images, was added to the logits.
PREDICTIONS = _schema(
    trial_id=_STR, runtime=_STR, sample_id=_I32, split=_STR, predicted=_I16, predicted_refit=_I16,
    loss_nats=_F32, confidence=_F32, margin=_F32, entropy_nats=_F32, kl_nats=_F32, logits=pa.list_(_F32),
)  # fmt: skip
# One row for each session and batch size that was timed; one row with neither where the runtime has no result. `n_flip`
# counts test images whose answer is not that of torch, `max_difference` is of logits; `kernels` counts the operators of
# the optimised graph, such as "QLinearConv 3, QGemm 1".
RUNTIMES = _schema(
    trial_id=_STR, runtime=_STR, session=_STR, batch=_I32, status=_STR, reason=_STR, file_bytes=pa.int64(),
    p50_ms=_F64, p95_ms=_F64, threads=_I32, n_test=_I32, n_flip=_I32, max_difference=_F64, kernels=_STR,
    version=_STR, device=_STR,
)  # fmt: skip
LAYERS = _schema(
    trial_id=_STR, layer=_STR, kind=_STR, status=_STR, reason=_STR, n_weights=pa.int64(),
    weight_bits=_I8, act_bits=_I8, scheme=_STR, granularity=_STR, act_grid=_STR, folded_batchnorm=_STR,
    weight_sqnr_db=_F64, sqnr_db=_F64,
)  # fmt: skip
LAYER_PREDICTIONS = _schema(  # of val images, with this layer alone quantized, and with none
    trial_id=_STR, layer=_STR, sample_id=_I32, predicted=_I16, float_predicted=_I16,
)  # fmt: skip
SENSITIVITY = _schema(  # first letter the network without quantizers, second the one with this layer quantized
    trial_id=_STR, layer=_STR, split=_STR, grouping=_STR, group=_STR,
    n=_I32, n_rr=_I32, n_rw=_I32, n_wr=_I32, n_ww=_I32, n_flip=_I32, drop_pp=_F64, reason=_STR,
)  # fmt: skip
MECHANISM = _schema(
    trial_id=_STR, grouping=_STR, group=_STR, statistic=_STR, n=_I32, value=_F64, standard_error=_F64, split=_STR,
    reason=_STR,
)  # fmt: skip
GROUP_METRICS = _schema(
    trial_id=_STR, runtime=_STR, grouping=_STR, group=_STR, metric=_STR, **{"class": _STR},
    n=_I32, n_train=_I32, value=_F64, ci_low=_F64, ci_high=_F64, ci_method=_STR, reason=_STR,
)  # fmt: skip
# One row for each bin of confidence that holds an image, over all seeds: `bin` 3 of 0 .. 9 is from 0.3 to below 0.4.
RELIABILITY = _schema(
    config_id=_STR, runtime=_STR, grouping=_STR, group=_STR, bin=_I8, n=_I32, n_seeds=_I32,
    confidence=_F64, accuracy=_F64, ci_low=_F64, ci_high=_F64, reason=_STR,
)  # fmt: skip
SHIFTS = _schema(  # of the share of images predicted as a class
    trial_id=_STR, runtime=_STR, comparison=_STR, grouping=_STR, group=_STR, **{"class": _STR}, other_trial_id=_STR,
    n=_I32, other_share=_F64, share=_F64, shift_pp=_F64, ci_low_pp=_F64, ci_high_pp=_F64, reason=_STR,
)  # fmt: skip
# `lower_pp` and `upper_pp` are the limits that words rest on, null for a group that takes no part; `excess_pp` is the
# drop of a group less that of all other images. `refit` columns are of `predicted_refit` on both sides: what is left of
# a drop when offsets take the prior shift away.
PAIRED_METRICS = _schema(
    trial_id=_STR, runtime=_STR, comparison=_STR, grouping=_STR, group=_STR, other_trial_id=_STR,
    n=_I32, n_rr=_I32, n_rw=_I32, n_wr=_I32, n_ww=_I32, n_flip=_I32,
    drop_pp=_F64, drop_ci_low_pp=_F64, drop_ci_high_pp=_F64, lower_pp=_F64, upper_pp=_F64,
    excess_pp=_F64, excess_lower_pp=_F64, eag_pp=_F64, eag_ci_low_pp=_F64, eag_ci_high_pp=_F64,
    eag_p=_F64, eag_q=_F64, eag_p_holm=_F64, family_id=_STR, family_size=_I32, mcnemar_p=_F64,
    excess_loss_nats=_F64, excess_loss_ci_low_nats=_F64, excess_loss_ci_high_nats=_F64, kl_nats=_F64,
    refit_n_rw=_I32, refit_n_wr=_I32, refit_drop_pp=_F64, refit_drop_ci_low_pp=_F64, refit_drop_ci_high_pp=_F64,
    prior_shift_pp=_F64, reason=_STR,
)  # fmt: skip
# `null_mean`, `null_q95` and `null_p` are of the same draws: what the value would be if all groups were alike.
DISPARITY = _schema(
    trial_id=_STR, runtime=_STR, comparison=_STR, grouping=_STR, metric=_STR, value=_F64, corrected=_F64,
    worst_group=_STR, best_group=_STR, n_groups=_I32, null_mean=_F64, null_q95=_F64, null_p=_F64, null_method=_STR,
    reason=_STR,
)  # fmt: skip
OWN_METRICS = _schema(  # paired differences of a user's own metrics, the trial's less the other side's
    trial_id=_STR, runtime=_STR, comparison=_STR, grouping=_STR, group=_STR, metric=_STR, other_trial_id=_STR,
    n=_I32, difference=_F64, ci_low=_F64, ci_high=_F64, reason=_STR,
)  # fmt: skip
# A family is what one question tests at once: every group and configuration of a data set, grouping and comparison.
FAMILIES = _schema(
    family_id=_STR, dataset_id=_STR, task=_STR, grouping=_STR, runtime=_STR, comparison=_STR,
    n_tests=_I32, n_left_out=_I32, provisional=pa.bool_(),
)  # fmt: skip
# A contrast is between two configurations, over the seeds that both have. `comparison` is null where the other one is
# neither the reference nor the control. Rates are fractions of the images, means over the seeds. `lower_pp`, `upper_pp`
# and `excess_lower_pp` are limits of seeds and images. `churn_rate` is the flip rate of the float models on the other
# side from seed to seed.
CONTRASTS = _schema(
    contrast_id=_STR, kind=_STR, runtime=_STR, dataset_id=_STR, comparison=_STR, config_id=_STR, other_config_id=_STR,
    level=_STR, other_level=_STR, grouping=_STR, group=_STR, n=_I32, n_seeds=_I32, seeds=pa.list_(_I32),
    seed_drops_pp=pa.list_(_F64), drop_pp=_F64, drop_ci_low_pp=_F64, drop_ci_high_pp=_F64, ci_method=_STR,
    lower_pp=_F64, upper_pp=_F64, excess_pp=_F64, excess_lower_pp=_F64,
    eag_pp=_F64, eag_ci_low_pp=_F64, eag_ci_high_pp=_F64,
    flip_rate=_F64, bad_flip_rate=_F64, good_flip_rate=_F64, churn_rate=_F64,
    cie_share=_F64, taxicab=_F64, reason=_STR,
)  # fmt: skip
CONTRAST_DISPARITY = _schema(  # how unevenly the drops of a contrast are spread over the groups
    contrast_id=_STR, kind=_STR, runtime=_STR, dataset_id=_STR, comparison=_STR, config_id=_STR, other_config_id=_STR,
    grouping=_STR, n_seeds=_I32, n_groups=_I32, drop_disparity_pp=_F64,
    null_mean_pp=_F64, null_q95_pp=_F64, null_p=_F64, worst_group=_STR, best_group=_STR, reason=_STR,
)  # fmt: skip
SPREADS = _schema(  # the standard deviation of a drop over seeds of one kind: training or calibration
    kind=_STR, runtime=_STR, config_id=_STR, comparison=_STR, grouping=_STR, group=_STR, n_values=_I32,
    mean_drop_pp=_F64, sd_pp=_F64, sd_ci_low_pp=_F64, sd_ci_high_pp=_F64, reason=_STR,
)  # fmt: skip
# A row is of one file (`trial_id`) or of a recipe (a configuration over seeds; no `trial_id`). `group` is whom the word
# is about, with its limits; `at_most_pp` the largest `upper_pp` of all cells. `clearest_lower_pp` is the largest lower
# limit that is corrected for all `n_cells_of_plan`, where it is above 0. `n_models` of `n_seeds` models differ.
VERDICTS = _schema(
    config_id=_STR, trial_id=_STR, scope=_STR, runtime=_STR, comparison=_STR, grouping=_STR,
    word=_STR, answer=_STR, told=_STR, group=_STR, limit_pp=_F64, lower_pp=_F64, upper_pp=_F64, excess_lower_pp=_F64,
    at_most_pp=_F64, clearest_group=_STR, clearest_lower_pp=_F64, n_cells_of_plan=_I32, n_seeds=_I32, n_models=_I32,
    contains_answer=pa.bool_(), out_of_play=pa.list_(_STR), provisional=pa.bool_(), reason=_STR,
)  # fmt: skip
# Of the configurations that answer one question, the best on val, and what it does on test. `training` is what the
# sweep file says of network and training, as JSON.
CHOICES = _schema(
    dataset_id=_STR, model=_STR, training=_STR, method=_STR, base=_STR, init=_STR, weight_bits=_I8, act_bits=_I8,
    criterion=_STR, grouping=_STR,
    config_id=_STR, n_configs=_I32, n_seeds=_I32, val_value=_F64, test_value=_F64, best_test_value=_F64, reason=_STR,
)  # fmt: skip
CORRELATIONS = _schema(  # over the groups of a grouping, of what the reference says and what the groups then lose
    config_id=_STR, runtime=_STR, comparison=_STR, grouping=_STR, statistic=_STR, outcome=_STR,
    rho=_F64, p=_F64, n_groups=_I32, n_seeds=_I32, reason=_STR,
)  # fmt: skip
PROVENANCE = _schema(key=_STR, value=_STR)
# Of two stores, so none of a store's own tables: contrasts against the same configuration there, and what was set
# differently; `n` and `accuracy` are of this store, those with `other_` of the other one.
DIFFERENCES = _schema(
    **{field.name: field.type for field in CONTRASTS}, other_n=_I32, accuracy=_F64, other_accuracy=_F64,
)  # fmt: skip
SETTING_DIFFERENCES = _schema(method=_STR, setting=_STR, here=_STR, there=_STR)

TABLES: Final[dict[str, pa.Schema]] = {
    "trials": TRIALS,
    "groups": GROUPS,
    "samples": SAMPLES,
    "predictions": PREDICTIONS,
    "runtimes": RUNTIMES,
    "layers": LAYERS,
    "sensitivity": SENSITIVITY,
    "mechanism": MECHANISM,
    "group_metrics": GROUP_METRICS,
    "reliability": RELIABILITY,
    "shifts": SHIFTS,
    "paired_metrics": PAIRED_METRICS,
    "disparity": DISPARITY,
    "own_metrics": OWN_METRICS,
    "families": FAMILIES,
    "contrasts": CONTRASTS,
    "contrast_disparity": CONTRAST_DISPARITY,
    "spreads": SPREADS,
    "verdicts": VERDICTS,
    "choices": CHOICES,
    "correlations": CORRELATIONS,
    "provenance": PROVENANCE,
}
MIN_RANKED: Final = 50  # test images: a smaller group is listed, but never called the worst or the best
# comparison -> the column of `trials` that names the other side
COMPARISONS: Final = {"reference": "reference_trial_id", "control": "control_trial_id"}
# Columns of `trials` that differ between two runs of the same plan. Equality of tables leaves them out.
RUN_DEPENDENT: Final = ("attempt", "train_s", "calibrate_s", "evaluate_s", "total_s", "traceback", "code_version")
# Runtimes besides torch, in which a finished trial can be measured too: the keys of `quant.RUNTIMES`, which this room
# may not import. A test holds them equal.
DEPLOYED: Final = ("onnxruntime", "tensorrt")
EXACT: Final = (
    "onnxruntime_exact"  # names predictions of ONNX Runtime without what changes numbers: proof of the export
)
IMPORTED: Final = "imported"  # the method of a trial whose predictions came from elsewhere
BLOCKED: Final = "not run:"  # how the error begins of a trial that never ran, because one that it needs failed

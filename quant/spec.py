"""What can be asked of the quantization engine, as frozen values: no torch here.

A spec goes into `quant.prepare` and, through its canonical JSON, into the identity of a trial. A setting that has no
effect in a combination is put back to its default by `normalized`, so that equal experiments have equal ids.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError, PydanticKnownError

# Part of every trial's identity. Raise it by hand in the change that changes a golden result, and only then.
ENGINE_VERSION: Final = 2

# name -> class, loaded by `quant.build_model`
MODELS: dict[str, str] = {
    "small_cnn": "quant.models.small_cnn:SmallCnn",
    "nin": "quant.models.nin:Nin",
    "nin_gc": "quant.models.nin:NinGc",
    "resnet18": "quant.models.resnet18:ResNet18",
    "trident": "quant.models.trident:Trident",
}
# channels of the first layer, as the networks were published
WIDTHS: dict[str, int] = {"small_cnn": 16, "nin": 192, "nin_gc": 256, "resnet18": 64, "trident": 32}
# the heads of a network that has several, in their order: tasks of the data set
MULTI_HEAD: dict[str, tuple[str, ...]] = {"trident": ("age", "gender", "ethnicity")}
ELSEWHERE: Final = {"torchvision:NAME": r"torchvision:\w+", "package.module:factory": r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"}

Bits = Annotated[int, Field(ge=2, le=16)]
Pair = Annotated[tuple[str, str], Field(strict=False)]
Epoch = Annotated[int, Field(ge=1)]
Schedule = Literal["constant", "step", "cosine"]
Selection = Literal["last", "best_val"]
Scheme = Literal["symmetric", "asymmetric"]
Granularity = Literal["per_channel", "per_tensor"]
WeightObserver = Literal["minmax", "ema", "percentile", "mse"]
ActObserver = Literal["minmax", "ema", "percentile", "mse", "kl"]
SEARCHING: Final = ("mse", "kl")  # observers that compare candidate ranges
MOST_SEARCHED_BITS: Final = (
    10  # above, the smallest and the largest value are the range: a search is coarser than a step
)
MOST_BITS_STARTED_BY_MSE: Final = 4  # of a learned scale
# The values that the original has of settings where it lacks others. Under preset iao all other settings mean what they
# say, but for `act_signed` (always signed) and `quantize_adds` (always quantized), which then have no effect.
IAO_HAS: Final[dict[str, tuple[Any, ...]]] = {
    "weight_observer": ("minmax", "ema"),
    "act_observer": ("ema", "percentile", "minmax"),
    "first_last_bits": (None,),
    "overrides": ((),),
    "rounding": ("nearest",),
    "bias_correction": (False,),
    "scales": ("observed",),
}


class Spec(BaseModel, frozen=True, extra="forbid", strict=True, allow_inf_nan=False):
    """A frozen value: unknown keys and wrong types are errors, and nothing is converted silently."""


class Preprocess(Spec, frozen=True):
    """What is done to images before a network, for weights that were trained so; what is left out follows the data.

    `resize` is the new height and width, bilinear with antialiasing. `mean` and `std` hold a number for each channel,
    for pixels in [0, 1], in place of those of the training split.
    """

    resize: int | None = Field(default=None, ge=4, le=1024)
    mean: tuple[float, ...] = Field(default=(), strict=False)
    std: tuple[float, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def statistics_are_possible(self) -> Self:
        """Raise for a std that is not above 0, and for means and stds of different numbers of channels."""
        if not all(value > 0 for value in self.std):
            raise _misfit("std", f"must hold numbers above 0, got {list(self.std)}")
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise _misfit("std", f"must have as many numbers as mean, {len(self.mean)}, got {len(self.std)}")
        return self


class ModelSpec(Spec, frozen=True):
    """A network by name: one of `MODELS`, `torchvision:NAME`, or `package.module:factory`, and where its weights are.

    `width` is the number of channels of the first layer, and all other layers scale with it; None is the original's.
    `heads` says which heads of a multi-head network run and are trained. `weights` is a file, or `torchvision:NAME`, in
    place of training; `key_map` pairs a prefix of the file's keys with the prefix that the network has in its place.
    `preprocess` is what its images go through.
    """

    name: str
    width: int | None = Field(default=None, ge=1)
    heads: Literal["task", "all"] = "task"
    weights: str | None = None
    key_map: tuple[Pair, ...] = Field(default=(), strict=False)
    preprocess: Preprocess = Preprocess()

    @field_validator("name")
    @classmethod
    def name_is_known(cls, name: str) -> str:
        """Raise pydantic's own `literal_error` for a model that is in neither `MODELS` nor `ELSEWHERE`."""
        if name not in MODELS and not any(re.fullmatch(pattern, name) for pattern in ELSEWHERE.values()):
            raise PydanticKnownError("literal_error", {"expected": " or ".join(map(repr, [*MODELS, *ELSEWHERE]))})
        return name

    @field_validator("weights")
    @classmethod
    def weights_are_absolute(cls, weights: str | None) -> str | None:
        """Make a path absolute: a worker runs in another folder than the one where the sweep was started."""
        if weights is None or weights.startswith("torchvision:"):
            return weights
        return str(Path(weights).expanduser().absolute())

    @field_validator("key_map", mode="before")
    @classmethod
    def key_map_is_a_table(cls, key_map: Any) -> Any:
        """Take a table as pairs, which can be hashed."""
        if not isinstance(key_map, dict | list | tuple):
            raise _misfit("key_map", 'must be a table from old prefix to new prefix, such as {"net." = ""}', here=True)
        return tuple(key_map.items()) if isinstance(key_map, dict) else key_map

    @field_validator("key_map")
    @classmethod
    def order_does_not_matter(cls, key_map: tuple[Pair, ...]) -> tuple[Pair, ...]:
        """Sort the pairs, so that the order of writing changes no id."""
        return tuple(sorted(key_map))

    @model_validator(mode="before")
    @classmethod
    def original_width_is_left_out(cls, data: Any) -> Any:
        """Forget a width that is the original's, so that writing it down changes no id."""
        is_original = isinstance(data, dict) and (data.get("name"), data.get("width")) in list(WIDTHS.items())
        return {key: value for key, value in data.items() if key != "width"} if is_original else data

    @model_validator(mode="after")
    def settings_fit_the_network(self) -> Self:
        """Raise where a setting would have no effect on this network."""
        if self.width is not None and self.name not in MODELS:
            raise _misfit("width", f"is not a setting of {self.name}; remove it")
        if self.heads == "all" and self.name not in MULTI_HEAD:
            raise _misfit(
                "heads", f"is 'all', but {self.name} has one head; only {' and '.join(MULTI_HEAD)} has several"
            )
        if self.has_torchvision_weights and not self.name.startswith("torchvision:"):
            raise _misfit("weights", f"is '{self.weights}', which only torchvision's models have, and not {self.name}")
        if self.key_map and (self.weights is None or self.has_torchvision_weights):
            raise _misfit("key_map", "renames the keys of a file, but `weights` names none")
        return self

    @property
    def trained_heads(self) -> tuple[str, ...]:
        """Every head where all are trained; nothing where only the task's is, or where there is only one."""
        return MULTI_HEAD[self.name] if self.heads == "all" else ()

    @property
    def has_torchvision_weights(self) -> bool:
        """Whether the weights are torchvision's own."""
        return self.weights is not None and self.weights.startswith("torchvision:")

    @property
    def architecture(self) -> "ModelSpec":
        """The same network without the file of its weights."""
        return self.model_copy(update={"weights": None, "key_map": ()})


def _misfit(field: str, message: str, *, here: bool = False) -> PydanticCustomError:
    """Return the error of a setting that does not fit; `here` where pydantic knows the field already."""
    return PydanticCustomError("misfit", "{message}", {"message": message, **({} if here else {"field": field})})


class Recipe(Spec, frozen=True):
    """A course of training: what a QAT trial and its control share. Everything else comes from the `TrainSpec`.

    `schedule`: "constant"; "step", a tenth from each epoch in `milestones` (from 1) on; "cosine" over all steps.
    After epoch `freeze_bn_after` (0: from the start) batch norm normalizes with its running statistics.
    """

    epochs: int = Field(ge=1)
    lr: float = Field(gt=0)
    schedule: Schedule = "cosine"
    milestones: tuple[Epoch, ...] = Field(default=(), strict=False)
    select: Selection = "last"
    freeze_bn_after: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def milestones_fit_the_schedule(self) -> Self:
        """Raise for milestones that do not rise, and for steps without milestones or the other way round."""
        if list(self.milestones) != sorted(set(self.milestones)):
            raise _misfit("milestones", f"must rise, got {list(self.milestones)}")
        if self.milestones and self.schedule != "step":
            raise _misfit("milestones", f"belongs to the schedule 'step', and this one is '{self.schedule}'")
        if self.schedule == "step" and not self.milestones:
            raise _misfit("milestones", "is missing: the schedule 'step' needs the epochs at which `lr` drops")
        return self


class TrainSpec(Recipe, frozen=True):
    """How the float model is trained. A fine-tuning recipe replaces the fields of `Recipe` and inherits the others.

    `precision = "bf16"` trains with bfloat16 convolutions and float32 quantizers; evaluation is always float32.
    `augment` is for the data side: the engine takes the batches as they come.
    """

    batch_size: int = Field(default=64, ge=2)
    select: Selection = "best_val"
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    weight_decay: float = Field(default=0, ge=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    augment: tuple[Literal["crop", "flip"], ...] = Field(default=(), strict=False)

    @field_validator("augment")
    @classmethod
    def order_does_not_matter(cls, augment: tuple[str, ...]) -> tuple[str, ...]:
        """Sort the names, so that the order of writing changes no id."""
        return tuple(sorted(set(augment)))

    @property
    def recipe(self) -> dict[str, Any]:
        """The course alone, as plain values: what a QAT from scratch does too unless its block says otherwise."""
        return self.model_dump(include=set(Recipe.model_fields))

    def with_recipe(self, recipe: Recipe) -> "TrainSpec":
        """This spec with the course of `recipe`: how a QAT trial and its control are trained."""
        return self.model_copy(update={name: getattr(recipe, name) for name in Recipe.model_fields})


class LayerOverride(Spec, frozen=True):
    """What one pattern of layer names changes; `bits` sets both bits. `quantize = false` leaves the layer in float."""

    quantize: bool = True
    weight_bits: Bits | None = None
    act_bits: Bits | None = None
    scheme: Scheme | None = None
    granularity: Granularity | None = None
    weight_observer: WeightObserver | None = None
    act_observer: ActObserver | None = None

    @model_validator(mode="before")
    @classmethod
    def bits_set_both(cls, data: Any) -> Any:
        """Write `bits` out as weight_bits and act_bits. Raises where one of them is given too."""
        if not isinstance(data, dict) or "bits" not in data:
            return data
        rest = {key: value for key, value in data.items() if key != "bits"}
        if rest.keys() & {"weight_bits", "act_bits"}:
            raise _misfit("bits", "sets weight_bits and act_bits; remove it or those")
        return {**rest, "weight_bits": data["bits"], "act_bits": data["bits"]}

    def changes(self) -> dict[str, Any]:
        """The settings that differ from those of the trial."""
        return self.model_dump(exclude_none=True, exclude={"quantize"})


PatternOverride = Annotated[tuple[str, LayerOverride], Field(strict=False)]  # JSON, which workers get, has no tuples


class QuantSettings(Spec, frozen=True):
    """The settings that PTQ and QAT share. Source of the grid: `quant/qparams.py`.

    `first_last_bits` are the bits of the first and the last quantized layer (of every head). `overrides` maps patterns
    of layer names (`fnmatch`: `*`, `?`) to changed settings; the last pattern that fits wins, `first_last_bits` loses.
    `quantize_adds` also quantizes the inputs of residual additions and concatenations that are modules (`quant.Add`,
    `quant.Concat`), on one grid for all inputs of each.
    `calib_balance` is "uniform", or a grouping of the data set, whose groups then give equally many images.
    `preset = "iao"` is the original scripts' arithmetic (`quant/iao.py`), choice of modules (`quant/iao_layers.py`) and
    calibration (`quant/iao_calibration.py`); their PTQ has act_observer = "percentile".
    """

    weight_bits: Bits = 8
    act_bits: Bits = 8
    scheme: Scheme = "symmetric"
    granularity: Granularity = "per_channel"
    weight_observer: WeightObserver = "minmax"
    act_observer: ActObserver = "minmax"
    act_signed: Literal["auto", "always"] = "auto"
    percentile: float = Field(default=0.9999, gt=0.5, lt=1)
    first_last_bits: Bits | None = None
    overrides: tuple[PatternOverride, ...] = Field(default=(), strict=False)
    quantize_adds: bool = False
    preset: Literal["none", "iao"] = "none"
    calib_images: int = Field(default=1024, ge=1)
    calib_batch_size: int = Field(default=64, ge=1)
    calib_seed: int = Field(default=0, ge=0)
    calib_balance: str = "uniform"

    @field_validator("overrides", mode="before")
    @classmethod
    def overrides_are_a_table(cls, overrides: Any) -> Any:
        """Take a table as pairs, in its order, which decides; pairs can be hashed."""
        if not isinstance(overrides, dict | list | tuple):
            example = 'must be a table from layer pattern to settings, such as {"classifier" = {bits = 8}}'
            raise _misfit("overrides", example, here=True)
        return tuple(overrides.items()) if isinstance(overrides, dict) else overrides

    @model_validator(mode="after")
    def settings_fit_the_preset(self) -> Self:
        """Raise for a setting that the original has not, and for a percentile that would cut off every negative."""
        if self.preset == "none":
            return self
        for field, has in IAO_HAS.items():
            value = getattr(self, field, has[0])
            if value not in has:
                is_so = f"is '{value}'" if isinstance(value, str) else "is set"
                remedy = f"take {' or '.join(has)}" if len(has) > 1 else "remove it"
                raise _misfit(field, f'{is_so}, which preset = "iao" has not: {remedy}, or set preset = "none"')
        if self.act_observer == "percentile" and self.scheme == "asymmetric":
            fault = "whose range starts at 0 in preset 'iao': an asymmetric scheme would cut off every negative value"
            raise _misfit("act_observer", f"is 'percentile', {fault}; set scheme = 'symmetric', or take ema or minmax")
        return self

    @property
    def calibrates(self) -> bool:
        """Whether calibration images decide anything."""
        return True

    def normalized(self) -> Self:
        """This spec with every setting that has no effect in it put back to its default."""
        idle: dict[str, Any] = {"act_signed": "auto"} if self.scheme == "asymmetric" and not self.overrides else {}
        if self.preset == "iao":
            idle = {"act_signed": "always", "quantize_adds": False}
        if not self.calibrates:
            calibration = (name for name in QuantSettings.model_fields if name.startswith("calib_"))
            idle |= {name: QuantSettings.model_fields[name].default for name in calibration}
        if self.first_last_bits == self.weight_bits == self.act_bits:
            idle["first_last_bits"] = None
        if self._has_one_width():
            idle |= {
                observer: "minmax"
                for bits, observer in (("weight_bits", "weight_observer"), ("act_bits", "act_observer"))
                if getattr(self, bits) > MOST_SEARCHED_BITS and getattr(self, observer) in SEARCHING
            }
        if "percentile" not in self._observers():
            idle["percentile"] = QuantSettings.model_fields["percentile"].default
        return self.model_copy(update=idle)

    def _has_one_width(self) -> bool:
        """Whether `weight_bits` and `act_bits` are those of every layer."""
        same_ends = self.first_last_bits is None or self.first_last_bits == self.weight_bits == self.act_bits
        return same_ends and not self.overrides

    def _observers(self) -> set[str | None]:
        """Every observer that some layer uses."""
        overridden = {observer for _, one in self.overrides for observer in (one.weight_observer, one.act_observer)}
        return {self.weight_observer, self.act_observer, *overridden}


class Fp32Spec(Spec, frozen=True):
    """The float model itself: the shared stage and the reference of every other method."""

    method: Literal["fp32"]


class Fp32FtSpec(Recipe, frozen=True):
    """The control of QAT: the same recipe through the same code, with the quantizers bypassed."""

    method: Literal["fp32_ft"]


class PtqSpec(QuantSettings, frozen=True):
    """Post-training quantization: fold batch norm, calibrate, freeze.

    `rounding = "adaround"` learns for every weight whether it is rounded up or down; `bias_correction` gives each layer
    back the mean output that quantization took. `base` is the float model it starts from: "fp32_ft", the fine-tuned
    control, makes it like for like with QAT, and takes that control's recipe.
    """

    method: Literal["ptq"]
    bn_fold: Literal["fold", "none"] = "fold"
    rounding: Literal["nearest", "adaround"] = "nearest"
    bias_correction: bool = False
    base: Literal["fp32", "fp32_ft"] = "fp32"
    epochs: int | None = Field(default=None, ge=1)
    lr: float | None = Field(default=None, gt=0)
    schedule: Schedule = "cosine"
    milestones: tuple[Epoch, ...] = Field(default=(), strict=False)
    select: Selection = "last"
    freeze_bn_after: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def recipe_is_that_of_its_base(self) -> Self:
        """Raise where `base = "fp32_ft"` lacks its recipe, or `base = "fp32"` has one."""
        for field, value in (("epochs", self.epochs), ("lr", self.lr)):
            if (value is None) == (self.base == "fp32_ft"):
                message = 'is missing: base = "fp32_ft" needs the recipe of its control'
                if self.base == "fp32":
                    message = 'has no effect with base = "fp32": remove it, or set base = "fp32_ft"'
                raise PydanticCustomError("misfit", "{message}", {"field": field, "value": value, "message": message})
        return self

    def normalized(self) -> Self:
        """Also without a recipe's settings where nothing is fine-tuned; the weights are seen once, so ema is minmax."""
        idle: dict[str, Any] = (
            {}
            if self.base == "fp32_ft"
            else {"schedule": "cosine", "milestones": (), "select": "last", "freeze_bn_after": None}
        )
        if self.weight_observer == "ema":
            idle["weight_observer"] = "minmax"
        return super().normalized().model_copy(update=idle)

    def control(self) -> "Fp32FtSpec | None":
        """The spec of the fine-tuned model it starts from; None with base fp32."""
        return None if self.base == "fp32" else _control_of(self)


class QatSpec(Recipe, QuantSettings, frozen=True):
    """Quantization-aware training with fake quantizers, then freeze: fine-tune the float model, or `init = "scratch"`.

    After epoch `freeze_observers_after` (0: from the start) all ranges stay as they are; None follows to the end.
    `scales = "learned"` trains them (LSQ) from where calibration put them, which at 4 bits and below is by "mse".
    `bn_fold`: "fold" trains with the weights that batch norm will have been folded into, "fold_calibrated" with those
    of the running statistics, corrected to the batch's (`quant/folded.py`).
    `init = "scratch"` starts from the initial weights in place of the trained float model; a sweep file may then leave
    the recipe to `train`.
    The original's fine-tuning with frozen quantizers (its QAFT) is preset = "iao" with freeze_observers_after = 0 and
    freeze_bn_after = 0.
    """

    method: Literal["qat"]
    act_observer: ActObserver = "ema"
    init: Literal["fp32", "scratch"] = "fp32"
    bn_fold: Literal["none", "fold", "fold_calibrated"] = "none"
    scales: Literal["observed", "learned"] = "observed"
    freeze_observers_after: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def observers_can_follow_training(self) -> Self:
        """Raise for an observer that needs a whole pass over fixed weights, where the range follows training."""
        if self.freeze_observers_after == 0 or self.scales == "learned" or self.preset == "iao":
            return self
        fault = "needs a whole pass over fixed weights: set freeze_observers_after = 0 or scales = 'learned'"
        for pattern, one in ("", self), *self.overrides:
            where = f'overrides."{pattern}".' if pattern else ""
            if one.act_observer in ("percentile", *SEARCHING):
                raise _misfit(f"{where}act_observer", f"is '{one.act_observer}', which {fault}, or take minmax or ema")
            if one.weight_observer in SEARCHING:
                raise _misfit(f"{where}weight_observer", f"is '{one.weight_observer}', which {fault}")
        return self

    @property
    def calibrates(self) -> bool:
        """Not under preset iao, whose observers copy the first batch of training, unless they are frozen by then."""
        return self.preset == "none" or self.freeze_observers_after == 0

    def normalized(self) -> Self:
        """Also without what learned scales make idle, and with one name for two folds that are the same."""
        idle: dict[str, Any] = {}
        if self.scales == "learned":
            idle["freeze_observers_after"] = None
        if self.weight_observer == "ema" and (self.scales == "learned" or self.freeze_observers_after == 0):
            idle["weight_observer"] = "minmax"  # the weights are seen once
        if self.scales == "learned" and self._has_one_width():
            if self.weight_bits <= MOST_BITS_STARTED_BY_MSE:
                idle["weight_observer"] = "minmax"
            if self.act_bits <= MOST_BITS_STARTED_BY_MSE:
                idle["act_observer"] = "ema"
        if self.bn_fold == "fold_calibrated" and self._folds_are_alike():
            idle["bn_fold"] = "fold"
        return super(QatSpec, self.model_copy(update=idle)).normalized()

    def _folds_are_alike(self) -> bool:
        """Whether both folds train the same: the grid of a channel scales with its weights at every step, or batch norm
        never takes a batch's statistics.
        """  # fmt: skip
        if self.preset == "iao":
            return False
        if self.freeze_bn_after == 0:
            return True
        follows = self.scales == "observed" and self.freeze_observers_after is None and self.weight_observer != "ema"
        return follows and self.granularity == "per_channel" and not self.overrides

    def control(self) -> Fp32FtSpec:
        """The control's spec: this recipe, without the quantization settings."""
        return _control_of(self)


def _control_of(spec: PtqSpec | QatSpec) -> Fp32FtSpec:
    recipe = spec.model_dump(include=set(Recipe.model_fields))
    return Fp32FtSpec(method="fp32_ft", **recipe)


MethodSpec = Annotated[Fp32Spec | Fp32FtSpec | PtqSpec | QatSpec, Field(discriminator="method")]

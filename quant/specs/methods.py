"""What can be asked of the quantization engine, as frozen values: no torch here.

A spec goes into `quant.prepare` and, through its canonical JSON, into the identity of a trial. A setting that has no
effect in a combination is put back to its default by `normalized`, so that equal experiments have equal ids.
"""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import Doc

from quantfair.quant.specs.base import Spec, setting_error
from quantfair.quant.specs.training import Epoch, Recipe, Schedule, Selection, check_milestones

# Part of every trial's identity. Raise it by hand in the change that changes a golden result, and only then.
ENGINE_VERSION: Final = 2

FLOAT_BITS: Final = 32  # of activations that stay float32: only the weights are quantized
Bits = Annotated[int, Field(ge=2, le=16)]


def _has_no_bits_between(bits: int) -> int:
    if 16 < bits < FLOAT_BITS:
        message = f"must be a whole number in 2..16, or {FLOAT_BITS} for activations that stay float, got {bits}"
        raise PydanticCustomError("misfit", "{message}", {"message": message})
    return bits


ActBits = Annotated[
    int,
    Field(ge=2, le=FLOAT_BITS, json_schema_extra={"not": {"exclusiveMinimum": 16, "exclusiveMaximum": FLOAT_BITS}}),
    AfterValidator(_has_no_bits_between),
    Doc(f"a whole number in 2..16, or {FLOAT_BITS}"),
]
Scheme = Literal["symmetric", "asymmetric"]
Granularity = Literal["per_channel", "per_tensor"]
WeightObserver = Literal["minmax", "ema", "percentile", "mse"]
ActObserver = Literal["minmax", "ema", "percentile", "mse", "kl"]
# What settings must know of an observer. Its row in `quant/quantizer/observers.py` has the code; importing that file
# fails where a row does not fit the names above or the first three lists. It cannot check the last two.
FOLLOWING_ACTIVATIONS: Final = ("minmax", "ema")  # observers whose ranges can follow training; the others are refused
FOLLOWING_WEIGHTS: Final = ("minmax", "ema", "percentile")
WITHOUT_MEMORY: Final = ("minmax", "percentile")  # whose range of a weight in training is that of this step
USING_PERCENTILE: Final = ("percentile",)  # observers that read the setting `percentile`
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


class LayerOverride(Spec, frozen=True):
    """What one pattern of layer names changes; `bits` sets both bits. `quantize = false` leaves the layer in float."""

    quantize: bool = True
    weight_bits: Bits | None = None
    act_bits: ActBits | None = None
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
            raise setting_error("bits", "sets weight_bits and act_bits; remove it or those")
        return {**rest, "weight_bits": data["bits"], "act_bits": data["bits"]}

    def changes(self) -> dict[str, Any]:
        """The settings that differ from those of the trial."""
        return self.model_dump(exclude_none=True, exclude={"quantize"})


PatternOverride = Annotated[tuple[str, LayerOverride], Field(strict=False)]  # JSON, which workers get, has no tuples


class QuantSettings(Spec, frozen=True):
    """The settings that PTQ and QAT share. Source of the grid: `quant/quantizer/qparams.py`.

    `act_bits` = 32 leaves activations float: only the weights are quantized.
    `first_last_bits` are the bits of the first and the last quantized layer (of every head). `overrides` maps patterns
    of layer names (`fnmatch`: `*`, `?`) to changed settings; the last pattern that fits wins, `first_last_bits` loses.
    `quantize_adds` also quantizes the inputs of residual additions and concatenations that are modules (`quant.Add`,
    `quant.Concat`), on one grid for all inputs of each.
    `calib_balance` is "uniform", or a grouping of the data set, whose groups then give equally many images.
    `preset = "iao"` is the original scripts' arithmetic, choice of modules and calibration (`quant/iao/`); their PTQ
    has act_observer = "percentile".
    """

    weight_bits: Bits = 8
    act_bits: ActBits = 8
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

    @field_validator(
        "overrides", mode="before", json_schema_input_type=dict[str, LayerOverride] | tuple[PatternOverride, ...]
    )
    @classmethod
    def overrides_are_a_table(cls, overrides: Any) -> Any:
        """Take a table as pairs, in its order, which decides; pairs can be hashed."""
        if not isinstance(overrides, dict | list | tuple):
            example = 'must be a table from layer pattern to settings, such as {"classifier" = {bits = 8}}'
            raise setting_error("overrides", example, here=True)
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
                raise setting_error(field, f'{is_so}, which preset = "iao" has not: {remedy}, or set preset = "none"')
        if self.act_bits == FLOAT_BITS:
            message = f'is {FLOAT_BITS}, which preset = "iao" has not: take 2 to 16, or set preset = "none"'
            raise setting_error("act_bits", message)
        if self.act_observer == "percentile" and self.scheme == "asymmetric":
            fault = "whose range starts at 0 in preset 'iao': an asymmetric scheme would cut off every negative value"
            raise setting_error(
                "act_observer", f"is 'percentile', {fault}; set scheme = 'symmetric', or take ema or minmax"
            )
        return self

    @property
    def calibrates(self) -> bool:
        """Whether calibration images decide anything."""
        return True

    @property
    def quantizes_weights_alone(self) -> bool:
        """Whether the activations of every layer stay float."""
        changed = {one.act_bits for _, one in self.overrides} - {None}
        return {self.act_bits, *changed} == {FLOAT_BITS}

    def normalized(self) -> Self:
        """This spec with every setting that has no effect in it put back to its default."""
        idle: dict[str, Any] = {"act_signed": "auto"} if self.scheme == "asymmetric" and not self.overrides else {}
        if self.preset == "iao":
            idle = {"act_signed": "always", "quantize_adds": False}
        if self.quantizes_weights_alone:
            own = type(self).model_fields  # the default observer of QAT is another one
            idle |= {name: own[name].default for name in ("act_observer", "act_signed", "quantize_adds")}
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
        if not self._observers() & set(USING_PERCENTILE):
            idle["percentile"] = QuantSettings.model_fields["percentile"].default
        return self.model_copy(update=idle)

    def _has_one_width(self) -> bool:
        """Whether `weight_bits` and `act_bits` are those of every layer."""
        same_ends = self.first_last_bits is None or self.first_last_bits == self.weight_bits == self.act_bits
        return same_ends and not self.overrides

    def _observers(self) -> set[str | None]:
        """Every observer that some layer uses."""
        overridden = {observer for _, one in self.overrides for observer in (one.weight_observer, one.act_observer)}
        of_activations = () if self.quantizes_weights_alone else (self.act_observer,)
        return {self.weight_observer, *of_activations, *overridden}


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
                raise setting_error(field, message, value=value)
        if self.base == "fp32_ft":
            check_milestones(self.schedule, self.milestones)
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
    of the running statistics, corrected to the batch's (`quant/layers/bn_arithmetic.py`).
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
            # An override that names no observer keeps that of the trial.
            if one.act_observer not in (None, *FOLLOWING_ACTIVATIONS):
                remedy = f"or take {' or '.join(FOLLOWING_ACTIVATIONS)}"
                raise setting_error(f"{where}act_observer", f"is '{one.act_observer}', which {fault}, {remedy}")
            if one.weight_observer not in (None, *FOLLOWING_WEIGHTS):
                raise setting_error(f"{where}weight_observer", f"is '{one.weight_observer}', which {fault}")
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
        follows = self.scales == "observed" and self.freeze_observers_after is None
        forgets = self.weight_observer in WITHOUT_MEMORY
        return follows and forgets and self.granularity == "per_channel" and not self.overrides

    def control(self) -> Fp32FtSpec:
        """The control's spec: this recipe, without the quantization settings."""
        return _control_of(self)


def _control_of(spec: PtqSpec | QatSpec) -> Fp32FtSpec:
    recipe = spec.model_dump(include=set(Recipe.model_fields))
    return Fp32FtSpec(method="fp32_ft", **recipe)


MethodSpec = Annotated[Fp32Spec | Fp32FtSpec | PtqSpec | QatSpec, Field(discriminator="method")]

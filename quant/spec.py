"""What can be asked of the quantization engine, as frozen values: no torch here.

A spec goes into `quant.prepare` and, through its canonical JSON, into the identity of a trial. A setting that has no
effect in a combination is put back to its default by `normalized`, so that equal experiments have equal ids.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError, PydanticKnownError

# Part of every trial's identity. Raise it by hand in the change that changes a golden result, and only then.
ENGINE_VERSION: Final = 1

# name -> class, loaded by `quant.build_model`
MODELS: dict[str, str] = {"small_cnn": "quant.models.small_cnn:SmallCnn"}

Bits = Annotated[int, Field(ge=2, le=16)]
Schedule = Literal["constant", "cosine"]
Selection = Literal["last", "best_val"]
Observer = Literal["minmax", "ema", "percentile"]


class Spec(BaseModel, frozen=True, extra="forbid", strict=True, allow_inf_nan=False):
    """A frozen value: unknown keys and wrong types are errors, and nothing is converted silently."""


class ModelSpec(Spec, frozen=True):
    """A network by name. `width` is the number of channels of its first layer."""

    name: str
    width: int = Field(default=16, ge=1)

    @field_validator("name")
    @classmethod
    def name_is_known(cls, name: str) -> str:
        """Raise pydantic's own `literal_error` for a model that is not in `MODELS`."""
        if name not in MODELS:
            raise PydanticKnownError("literal_error", {"expected": " or ".join(map(repr, MODELS))})
        return name


class TrainSpec(Spec, frozen=True):
    """How the float model is trained: Adam, `schedule` over all steps, the epoch of the best validation accuracy."""

    epochs: int = Field(ge=1)
    lr: float = Field(gt=0)
    batch_size: int = Field(default=64, ge=2)
    schedule: Schedule = "cosine"
    select: Selection = "best_val"


class Recipe(Spec, frozen=True):
    """A fine-tuning recipe: what a QAT trial and its control share. Everything else comes from the `TrainSpec`."""

    epochs: int = Field(ge=1)
    lr: float = Field(gt=0)
    schedule: Schedule = "cosine"
    select: Selection = "last"


class QuantSettings(Spec, frozen=True):
    """The settings that PTQ and QAT share. Source of the grid: `quant/qparams.py`."""

    weight_bits: Bits = 8
    act_bits: Bits = 8
    scheme: Literal["symmetric", "asymmetric"] = "symmetric"
    granularity: Literal["per_channel", "per_tensor"] = "per_channel"
    weight_observer: Observer = "minmax"
    act_observer: Observer = "minmax"
    act_signed: Literal["auto", "always"] = "auto"
    percentile: float = Field(default=0.9999, gt=0.5, lt=1)
    calib_images: int = Field(default=1024, ge=1)
    calib_batch_size: int = Field(default=64, ge=1)
    calib_seed: int = Field(default=0, ge=0)

    def normalized(self) -> Self:
        """This spec with every setting that has no effect in it put back to its default."""
        idle = {"act_signed": "auto"} if self.scheme == "asymmetric" else {}
        if "percentile" not in (self.weight_observer, self.act_observer):
            idle["percentile"] = QuantSettings.model_fields["percentile"].default
        return self.model_copy(update=idle)


class Fp32Spec(Spec, frozen=True):
    """The float model itself: the shared stage and the reference of every other method."""

    method: Literal["fp32"]


class Fp32FtSpec(Recipe, frozen=True):
    """The control of QAT: the same recipe through the same code, with the quantizers bypassed."""

    method: Literal["fp32_ft"]


class PtqSpec(QuantSettings, frozen=True):
    """Post-training quantization: fold batch norm, calibrate, freeze.

    `base` is the float model it starts from. "fp32_ft", the fine-tuned control, makes it like for like with QAT, and
    takes that control's recipe.
    """

    method: Literal["ptq"]
    bn_fold: Literal["fold", "none"] = "fold"
    base: Literal["fp32", "fp32_ft"] = "fp32"
    epochs: int | None = Field(default=None, ge=1)
    lr: float | None = Field(default=None, gt=0)
    schedule: Schedule = "cosine"
    select: Selection = "last"

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
        idle = {} if self.base == "fp32_ft" else {"schedule": "cosine", "select": "last"}
        if self.weight_observer == "ema":
            idle["weight_observer"] = "minmax"
        return super().normalized().model_copy(update=idle)

    def control(self) -> "Fp32FtSpec | None":
        """The spec of the fine-tuned model it starts from; None with base fp32."""
        return None if self.base == "fp32" else _control_of(self)


class QatSpec(Recipe, QuantSettings, frozen=True):
    """Quantization-aware training with fake quantizers, then freeze: fine-tune the float model, or `init = "scratch"`.

    `act_observer` leaves out percentile: a quantile of the whole pass is not defined while the weights change.
    """

    method: Literal["qat"]
    act_observer: Observer = "ema"
    init: Literal["fp32", "scratch"] = "fp32"

    @field_validator("act_observer")
    @classmethod
    def observer_can_follow_training(cls, name: str) -> str:
        """Raise pydantic's own `literal_error` for an observer that needs a whole pass over fixed weights."""
        if name == "percentile":
            raise PydanticKnownError("literal_error", {"expected": "'minmax' or 'ema'"})
        return name

    def control(self) -> Fp32FtSpec:
        """The control's spec: this recipe, without the quantization settings."""
        return _control_of(self)


def _control_of(spec: PtqSpec | QatSpec) -> Fp32FtSpec:
    recipe = spec.model_dump(include=set(Recipe.model_fields))
    return Fp32FtSpec(method="fp32_ft", **recipe)


MethodSpec = Annotated[Fp32Spec | Fp32FtSpec | PtqSpec | QatSpec, Field(discriminator="method")]

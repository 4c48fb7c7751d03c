"""How a network is trained, as frozen values: the course that QAT and its control share, and everything else."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from quantfair.quant.specs.base import Spec, setting_error

Epoch = Annotated[int, Field(ge=1)]
Schedule = Literal["constant", "step", "cosine"]
Selection = Literal["last", "best_val"]


def check_milestones(schedule: Schedule, milestones: tuple[int, ...]) -> None:
    """Raise for milestones that do not rise, and for steps without milestones or the other way round."""
    if list(milestones) != sorted(set(milestones)):
        raise setting_error("milestones", f"must rise, got {list(milestones)}")
    if milestones and schedule != "step":
        raise setting_error("milestones", f"belongs to the schedule 'step', and this one is '{schedule}'")
    if schedule == "step" and not milestones:
        raise setting_error("milestones", "is missing: the schedule 'step' needs the epochs at which `lr` drops")


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
        """Raise as `check_milestones` does."""
        check_milestones(self.schedule, self.milestones)
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

"""Which data a trial sees, as a frozen value, and the table of known sources: no torch, no images here."""

from typing import NamedTuple, Self

from pydantic import BaseModel, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError, PydanticKnownError

TEST_SHARE = 0.2  # where a source has no official test set and the spec names no share


class SourceInfo(NamedTuple):
    """One known data set. `module` has `fingerprint(folder) -> str` and `load(folder) -> RawData`."""

    module: str
    tasks: dict[str, str]  # task -> the attribute it predicts
    has_official_test: bool


SOURCES: dict[str, SourceInfo] = {
    "digits": SourceInfo("datasets.digits", {"digit": "digit"}, has_official_test=False),
    "mnist": SourceInfo("datasets.mnist", {"class": "digit"}, has_official_test=True),
    "fashion_mnist": SourceInfo("datasets.fashion_mnist", {"class": "garment"}, has_official_test=True),
    "cifar10": SourceInfo("datasets.cifar10", {"class": "object"}, has_official_test=True),
    "utkface": SourceInfo(
        "datasets.utkface",
        {"gender": "gender", "ethnicity": "ethnicity", "age": "age_bin"},
        has_official_test=False,
    ),
}


class DatasetSpec(BaseModel, frozen=True, extra="forbid", strict=True, allow_inf_nan=False):
    """A data set, the task on it, how it is split, and the groups it is looked at by.

    `test_share` is for sources without an official test set, which otherwise stays whole unless `test_size` asks for a
    subset. `val_share` is a share of what is not test. `train_size` is the exact number of training images wanted; the
    validation split shrinks with it. `exclude_conflicts` leaves out byte-identical images whose labels differ. Every
    subset is stratified and, for one `split_seed`, part of every larger one.
    """

    name: str
    task: str
    group_by: tuple[str, ...] = Field(default=("label",), strict=False)
    test_share: float | None = Field(default=None, gt=0, lt=1)
    val_share: float = Field(default=0.1, gt=0, lt=1)
    train_size: int | None = Field(default=None, ge=1)
    test_size: int | None = Field(default=None, ge=1)
    split_seed: int = Field(default=0, ge=0)
    exclude_conflicts: bool = False

    @field_validator("name")
    @classmethod
    def name_is_known(cls, name: str) -> str:
        """Raise pydantic's own `literal_error` for a data set that is not in `SOURCES`."""
        return _one_of(name, SOURCES)

    @model_validator(mode="after")
    def fits_its_source(self) -> Self:
        """Raise where the task, a grouping or the split does not exist in this source."""
        source = SOURCES[self.name]
        if self.task not in source.tasks:
            raise _misfit("task", self.task, list(source.tasks))
        known = sorted({"label", *source.tasks.values()})
        for grouping in self.group_by:
            parts = grouping.split("*")
            for attribute in parts:
                if attribute not in known:
                    raise _misfit("group_by", attribute, known)
            columns = {source.tasks[self.task] if part == "label" else part for part in parts}
            if len(columns) < len(parts):
                message = (
                    f"crosses an attribute with itself in '{grouping}' (here `label` is {source.tasks[self.task]})"
                )
                raise PydanticCustomError("misfit", "{message}", {"field": "group_by", "message": message})
        if source.has_official_test and self.test_share is not None:
            message = f"{self.name} has an official test set; remove it, and use test_size for a subset of that set"
            raise PydanticCustomError("misfit", "{message}", {"field": "test_share", "message": message})
        return self

    def identity(self) -> dict[str, object]:
        """The plain values that decide which images are in which split: all but `group_by`."""
        values = self.model_dump(mode="json", exclude_defaults=True, exclude={"group_by"})
        if values.get("test_share") == TEST_SHARE:
            del values["test_share"]
        return values


def _one_of(value: str, known: dict[str, SourceInfo]) -> str:
    if value not in known:
        raise PydanticKnownError("literal_error", {"expected": " or ".join(map(repr, known))})
    return value


def _misfit(field: str, value: str, known: list[str]) -> PydanticCustomError:
    context = {"field": field, "value": value, "known": known, "message": f"must be one of {known}, got {value!r}"}
    return PydanticCustomError("misfit", "{message}", context)

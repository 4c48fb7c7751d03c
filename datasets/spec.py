"""Which data a trial sees, as a frozen value, and the table of known sources: no torch, no images here."""

import re
from typing import NamedTuple, Self

from pydantic import BaseModel, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError, PydanticKnownError

from quantfair.datasets.imbalance import find_fault


class SourceInfo(NamedTuple):
    """One known data set. `module` has `load(folder, spec) -> RawData`, and where it reads files
    `find_files(folder, spec) -> SourceFiles`; without it the source is made anew each time and never cached.
    """  # fmt: skip

    module: str
    tasks: dict[str, str]  # task -> the attribute it predicts; none: any attribute is a task, known when it is loaded
    attributes: tuple[str, ...] = ()  # what else one may group by
    has_official_test: bool = False
    may_flip: bool = True  # a mirror image keeps its label
    settings: tuple[str, ...] = ()  # which of SETTINGS it takes
    where: str = ""  # where its files are looked for, in the data folder
    get: str = ""
    terms: str = ""


SOURCES: dict[str, SourceInfo] = {
    "digits": SourceInfo(
        "quantfair.datasets.digits",
        {"digit": "digit"},
        may_flip=False,
        where="in scikit-learn",
        get="comes with scikit-learn",
        terms="CC BY 4.0 (Alpaydin and Kaynak, UCI Machine Learning Repository, 1998)",
    ),
    "mnist": SourceInfo(
        "quantfair.datasets.mnist",
        {"class": "digit"},
        has_official_test=True,
        may_flip=False,
        where="MNIST/raw",
        get="downloaded at first use",
        terms="CC BY-SA 3.0 is claimed by its mirrors (LeCun, Cortes and Burges)",
    ),
    "fashion_mnist": SourceInfo(
        "quantfair.datasets.mnist",
        {"class": "class"},
        has_official_test=True,
        where="FashionMNIST/raw",
        get="downloaded at first use",
        terms="MIT (Zalando SE; Xiao, Rasul and Vollgraf 2017)",
    ),
    "cifar10": SourceInfo(
        "quantfair.datasets.cifar10",
        {"class": "class"},
        has_official_test=True,
        where="cifar-10-batches-py",
        get="downloaded at first use",
        terms="cite Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    ),
    "utkface": SourceInfo(
        "quantfair.datasets.utkface",
        {"gender": "gender", "ethnicity": "ethnicity", "age": "age_bin"},
        settings=("path", "size"),
        where="UTKFace/age_gender.csv (or .gz, .bz2, .xz, .zip), age_gender.csv, UTKFace/*.jpg",
        get="never downloaded: https://susanqq.github.io/UTKFace has the images and asks you to accept its terms",
        terms="non-commercial research only; the pictures show real people, children among them, and belong to their "
        "owners; never redistribute them (Zhang, Song and Qi 2017)",
    ),
    "image_folder": SourceInfo(
        "quantfair.datasets.image_folder",
        {},
        settings=("path", "size"),
        where="the folder or CSV file that `path` names",
        get="yours: one folder a class, or a CSV file with columns path, label and groups",
        terms="yours",
    ),
    "synthetic": SourceInfo(
        "quantfair.datasets.synthetic",
        {"class": "class"},
        attributes=("group",),
        settings=("hard_share", "hard_group"),
        where="nowhere",
        get="generated",
        terms="none",
    ),
}
FACTORY = SourceInfo(
    "quantfair.datasets.factory",
    {},
    where="your own module",
    get="yours: a function that returns RawData",
    terms="yours",
)
FACTORY_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
TEST_SHARE = 0.2  # where a source has no official test set and the spec names no share
SETTINGS = ("path", "size", "hard_share", "hard_group")


def find_source(name: str) -> SourceInfo:
    """Return what is known about a data set, a user's own included."""
    return FACTORY if FACTORY_NAME.fullmatch(name) else SOURCES[name]


def find_target(name: str, task: str) -> str:
    """Return the attribute that a task of a data set predicts."""
    return find_source(name).tasks.get(task, task)


class DatasetSpec(BaseModel, frozen=True, extra="forbid", strict=True, allow_inf_nan=False):
    """A data set, the task on it, how it is split, and the groups it is looked at by.

    `test_share` is for sources without an official test set, which otherwise stays whole unless `test_size` asks for a
    subset. `val_share` is a share of what is not test. `train_size` is the exact number of training images wanted; the
    validation split shrinks with it. Every subset is stratified and, for one `split_seed`, part of every larger one.
    Where a size is asked for, only the first of byte-identical images counts; else all are on one side.
    `exclude_conflicts` drops byte-identical images whose labels or groups differ. `imbalance` (see `imbalance.py`)
    shapes the training split alone, over the groups of `imbalance_by`. `path` and `size` (pixels to resize to) are for
    files that are yours; `hard_share` of the images of `hard_group` are made harder in synthetic data.
    """

    name: str = Field(json_schema_extra={"anyOf": [{"enum": list(SOURCES)}, {"pattern": f"^{FACTORY_NAME.pattern}$"}]})
    task: str
    group_by: tuple[str, ...] = Field(default=("label",), strict=False)
    test_share: float | None = Field(default=None, gt=0, lt=1)
    val_share: float = Field(default=0.1, gt=0, lt=1)
    train_size: int | None = Field(default=None, ge=1)
    test_size: int | None = Field(default=None, ge=1)
    split_seed: int = Field(default=0, ge=0)
    exclude_conflicts: bool = False
    imbalance: str = "none"
    imbalance_by: str = "label"
    path: str | None = None
    size: int | None = Field(default=None, ge=4, le=1024)
    hard_share: float | None = Field(default=None, ge=0, le=1)
    hard_group: str | None = None

    @field_validator("name")
    @classmethod
    def name_is_known(cls, name: str) -> str:
        """Raise pydantic's own `literal_error` for a data set that is neither in `SOURCES` nor a factory's name."""
        if name not in SOURCES and not FACTORY_NAME.fullmatch(name):
            known = [*SOURCES, "package.module:factory"]
            raise PydanticKnownError("literal_error", {"expected": " or ".join(map(repr, known))})
        return name

    @model_validator(mode="after")
    def fits_its_source(self) -> Self:
        """Raise where the task, a grouping, a setting or the split does not exist in this source."""
        source = find_source(self.name)
        if source.tasks:
            if self.task not in source.tasks:
                raise _not_one_of("task", self.task, list(source.tasks))
            known = sorted({"label", *source.tasks.values(), *source.attributes})
            groupings = [("group_by", grouping) for grouping in self.group_by] + [("imbalance_by", self.imbalance_by)]
            for field, grouping in groupings:
                parts = grouping.split("*")
                for attribute in parts:
                    if attribute not in known:
                        raise _not_one_of(field, attribute, known)
                target = source.tasks[self.task]
                if len({target if part == "label" else part for part in parts}) < len(parts):
                    raise _setting_error(
                        field, f"crosses an attribute with itself in '{grouping}' (here `label` is {target})"
                    )
        for setting in SETTINGS:
            if getattr(self, setting) is not None and setting not in source.settings:
                raise _setting_error(setting, f"is not a setting of {self.name}; remove it")
        if source.has_official_test and self.test_share is not None:
            message = f"{self.name} has an official test set; remove it, and use test_size for a subset of that set"
            raise _setting_error("test_share", message)
        return self

    @model_validator(mode="after")
    def imbalance_is_possible(self) -> Self:
        """Raise for a profile that cannot be read, or that has no total size."""
        if fault := find_fault(self.imbalance):
            raise _setting_error("imbalance", fault)
        if self.imbalance != "none" and self.train_size is None:
            message = "needs `train_size`: the training set has that many images under every profile, none included"
            raise _setting_error("imbalance", message)
        return self

    def identity(self) -> dict[str, object]:
        """The plain values that decide which images are in which split: all but `group_by` and where the files are."""
        unused = {"imbalance_by"} if self.imbalance == "none" else set()
        unused |= {"test_share"} if self.test_share == TEST_SHARE else set()
        return self.model_dump(mode="json", exclude_defaults=True, exclude={"group_by", "path", *unused})


def _not_one_of(field: str, value: str, known: list[str]) -> PydanticCustomError:
    return _setting_error(field, f"must be one of {known}, got {value!r}", value=value, known=known)


def _setting_error(field: str, message: str, **context: object) -> PydanticCustomError:
    return PydanticCustomError("misfit", "`{field}` {message}", {"field": field, "message": message, **context})

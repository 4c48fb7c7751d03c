"""Which network, and where its weights come from, as a frozen value: no torch here."""

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticKnownError

from quantfair.quant.specs.base import Spec, setting_error

# name -> class, loaded by `quant.build_model`
MODELS: dict[str, str] = {
    "small_cnn": "quantfair.quant.models.small_cnn:SmallCnn",
    "nin": "quantfair.quant.models.nin:Nin",
    "nin_gc": "quantfair.quant.models.nin:NinGc",
    "resnet18": "quantfair.quant.models.resnet18:ResNet18",
    "trident": "quantfair.quant.models.trident:Trident",
}
# channels of the first layer, as the networks were published
WIDTHS: dict[str, int] = {"small_cnn": 16, "nin": 192, "nin_gc": 256, "resnet18": 64, "trident": 32}
# the heads of a network that has several, in their order: tasks of the data set
MULTI_HEAD: dict[str, tuple[str, ...]] = {"trident": ("age", "gender", "ethnicity")}
ELSEWHERE: Final = {"torchvision:NAME": r"torchvision:\w+", "package.module:factory": r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"}
NAMES_ELSEWHERE: Final[list[Any]] = [{"pattern": f"^{pattern}$"} for pattern in ELSEWHERE.values()]  # as JSON schemas

Pair = Annotated[tuple[str, str], Field(strict=False)]


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
            raise setting_error("std", f"must hold numbers above 0, got {list(self.std)}")
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise setting_error("std", f"must have as many numbers as mean, {len(self.mean)}, got {len(self.std)}")
        return self


class ModelSpec(Spec, frozen=True):
    """A network by name: one of `MODELS`, `torchvision:NAME`, or `package.module:factory`, and where its weights are.

    `width` is the number of channels of the first layer, and all other layers scale with it; None is the original's.
    `heads` says which heads of a multi-head network run and are trained. `weights` is a file, or `torchvision:NAME`, in
    place of training; `key_map` pairs a prefix of the file's keys with the prefix that the network has in its place.
    `preprocess` is what its images go through.
    """

    name: str = Field(json_schema_extra={"anyOf": [{"enum": list(MODELS)}, *NAMES_ELSEWHERE]})
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

    @field_validator("key_map", mode="before", json_schema_input_type=dict[str, str] | tuple[Pair, ...])
    @classmethod
    def key_map_is_a_table(cls, key_map: Any) -> Any:
        """Take a table as pairs, which can be hashed."""
        if not isinstance(key_map, dict | list | tuple):
            raise setting_error(
                "key_map", 'must be a table from old prefix to new prefix, such as {"net." = ""}', here=True
            )
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
            raise setting_error("width", f"is not a setting of {self.name}; remove it")
        if self.heads == "all" and self.name not in MULTI_HEAD:
            raise setting_error(
                "heads", f"is 'all', but {self.name} has one head; only {' and '.join(MULTI_HEAD)} has several"
            )
        if self.has_torchvision_weights and not self.name.startswith("torchvision:"):
            raise setting_error(
                "weights", f"is '{self.weights}', which only torchvision's models have, and not {self.name}"
            )
        if self.key_map and (self.weights is None or self.has_torchvision_weights):
            raise setting_error("key_map", "renames the keys of a file, but `weights` names none")
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


def fingerprint_weights(spec: ModelSpec) -> str | None:
    """Return the sha256 of the file of the model's own weights; None without a file.

    torchvision's weights are no file of the user's: their name says which they are. Raises ValueError for no such file.
    """
    if spec.weights is None or spec.has_torchvision_weights:
        return None
    path = Path(spec.weights)
    if not path.is_file():
        raise ValueError(
            f"`model.weights`: there is no file {path}; give the path of a state dict saved with torch.save"
        )
    return _hash(path, os.stat(path))


@lru_cache
def _hash(path: Path, _stat: os.stat_result) -> str:
    """Read the file once for each state that it is in."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

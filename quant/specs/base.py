"""What every spec of the engine is: a frozen value that refuses what it does not know. No torch here."""

from pydantic import BaseModel
from pydantic_core import PydanticCustomError


class Spec(BaseModel, frozen=True, extra="forbid", strict=True, allow_inf_nan=False):
    """A frozen value: unknown keys and wrong types are errors, and nothing is converted silently."""


def setting_error(field: str, message: str, *, here: bool = False, **context: object) -> PydanticCustomError:
    """Return the error of a setting that does not fit; `here` where pydantic names the field already."""
    if here:
        return PydanticCustomError("misfit", "{message}", {"message": message, **context})
    return PydanticCustomError("misfit", "`{field}` {message}", {"field": field, "message": message, **context})

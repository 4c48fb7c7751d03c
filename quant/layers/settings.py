"""Which settings each layer gets: those of the trial, then `first_last_bits`, then the overrides that fit its name."""

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from quantfair.quant.specs.methods import FLOAT_BITS, QuantSettings


class LayerSettings(NamedTuple):
    """The settings of one layer, or why it stays float."""

    settings: QuantSettings
    float_reason: str | None = None


def settings_by_layer(
    spec: QuantSettings, layers: Iterable[str], *, lasts: Collection[str] = ()
) -> dict[str, LayerSettings]:
    """Return the settings of each of `layers`, named in the order of their calls.

    `lasts` are those that make an output of the model; where none does, the last one called counts. Raises ValueError
    for an override that fits no layer.
    """
    layers = list(layers)
    for pattern, _ in spec.overrides:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise ValueError(f"`overrides`: no layer fits '{pattern}'; the model's layers are {', '.join(layers)}")
    ends = {layers[0], *(lasts or layers[-1:])}
    return {name: _settings_of(name, spec, is_end=name in ends) for name in layers}


def _settings_of(name: str, spec: QuantSettings, *, is_end: bool) -> LayerSettings:
    changes = {}
    if is_end and spec.first_last_bits is not None:
        changes = {"weight_bits": spec.first_last_bits}
        changes |= {} if spec.act_bits == FLOAT_BITS else {"act_bits": spec.first_last_bits}
    float_reason = None
    for pattern, override in spec.overrides:
        if fnmatchcase(name, pattern):
            changes |= override.changes()
            float_reason = None if override.quantize else f"`overrides` leaves '{pattern}' in float"
    return LayerSettings(spec.model_copy(update=changes), float_reason)

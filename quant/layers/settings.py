"""Which quantizers each layer gets, by the settings of the trial, then `first_last_bits`, then the overrides that fit.

The only place where settings become the specs of quantizers: once for each layer, and once for all inputs of modules
without weights.
"""

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from quantfair.quant.quantizer.qparams import QuantizerSpec
from quantfair.quant.specs.methods import FLOAT_BITS, QuantSettings


class LayerSettings(NamedTuple):
    """The quantizers of one layer, or why it stays float. Without `activation` its input stays float."""

    weight: QuantizerSpec
    activation: QuantizerSpec | None
    float_reason: str | None = None


def settings_by_layer(
    spec: QuantSettings,
    channel_axes: Mapping[str, int | None],
    *,
    lasts: Collection[str] = (),
    kind: type[QuantizerSpec] = QuantizerSpec,
) -> dict[str, LayerSettings]:
    """Return the settings of each layer of `channel_axes`, whose names stand in the order of their calls.

    An axis counts the output channels of a weight; None gives the weight one grid. `lasts` are the layers that make an
    output of the model; where none does, the last one called counts. `kind` makes the specs. Raises ValueError for an
    override that fits no layer.
    """
    layers = list(channel_axes)
    for pattern, _ in spec.overrides:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise ValueError(f"`overrides`: no layer fits '{pattern}'; the model's layers are {', '.join(layers)}")
    ends = {layers[0], *(lasts or layers[-1:])}
    found = {}
    for name, axis in channel_axes.items():
        settings, float_reason = _settings_of(name, spec, is_end=name in ends)
        found[name] = LayerSettings(kind.of_weight(settings, axis), input_spec(settings, kind), float_reason)
    return found


def input_spec(settings: QuantSettings, kind: type[QuantizerSpec] = QuantizerSpec) -> QuantizerSpec | None:
    """Return what is asked of the quantizer of an input, such as those of a join, or None where inputs stay float."""
    return None if settings.act_bits == FLOAT_BITS else kind.of_activation(settings)


def _settings_of(name: str, spec: QuantSettings, *, is_end: bool) -> tuple[QuantSettings, str | None]:
    """Return the settings that count for a layer, and why it stays float, if it does."""
    changes = {}
    if is_end and spec.first_last_bits is not None:
        changes = {"weight_bits": spec.first_last_bits}
        changes |= {} if spec.act_bits == FLOAT_BITS else {"act_bits": spec.first_last_bits}
    float_reason = None
    for pattern, override in spec.overrides:
        if fnmatchcase(name, pattern):
            changes |= override.changes()
            float_reason = None if override.quantize else f"`overrides` leaves '{pattern}' in float"
    return spec.model_copy(update=changes), float_reason

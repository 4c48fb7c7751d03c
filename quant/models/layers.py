"""What the networks share: how they are initialised, and what they say to images of the wrong size."""

from torch import Tensor, nn


def initialize(model: nn.Module) -> None:
    """Draw the weights as the original scripts do: convolutions Xavier-uniform, linear layers N(0, 0.01), biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def check_sides(name: str, images_NCHW: Tensor, smallest: int, largest: int | None = None) -> None:
    """Raise ValueError for images that the network `name` cannot take."""
    height, width = images_NCHW.shape[-2:]
    if min(height, width) < smallest:
        allowed, remedy = f"at least {smallest} x {smallest}", "enlarge them"
    elif largest is not None and max(height, width) > largest:
        allowed, remedy = f"at most {largest} x {largest}", "shrink them"
    else:
        return
    raise ValueError(f"{name} needs images of {allowed} pixels, got {height} x {width}; {remedy}")


def check_width(name: str, width: int, multiple: int) -> None:
    """Raise ValueError for a width at which some layer would not have a whole number of channels, or of groups."""
    if width % multiple:
        nearest = max(multiple, round(width / multiple) * multiple)
        raise ValueError(f"`model.width` of {name} must be a multiple of {multiple}, got {width}; try {nearest}")

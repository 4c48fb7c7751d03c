"""How many training images each group keeps, from a profile such as "longtail:20". No numpy: specs are checked with it.

| profile | the groups' shares |
|---|---|
| `none` | as they come |
| `longtail:R` | fall geometrically; the last group gets 1/R of the first's (Cui et al. 2019, section 5.1) |
| `longtail:R:reversed` | the same in reversed order |
| `shares:A,B,...` | as given, one for each group; they add up to 1 |

Total size: exactly `train_size` under every profile, `none` included, so that trials differ in the mixture alone.
"""

import math
import re

NUMBER = r"(?:\d+(?:\.\d+)?|\.\d+)"
PROFILE = re.compile(rf"none|longtail:{NUMBER}(:reversed)?|shares:{NUMBER}(,{NUMBER})+")
RULE = '"none", "longtail:20", "longtail:20:reversed" or "shares:0.5,0.3,0.2"'


def find_fault(profile: str) -> str | None:
    """Say what is wrong with a profile, or nothing."""
    if not PROFILE.fullmatch(profile):
        return f"must be like {RULE}, got {profile!r}"
    kind, _, rest = profile.partition(":")
    if kind == "longtail" and float(rest.removesuffix(":reversed")) < 1:
        return f"must name a ratio of at least 1, got {profile!r}"
    if kind == "shares":
        total = math.fsum(map(float, rest.split(",")))
        if abs(total - 1) > 1e-6:
            return f"must have shares that add up to 1, got {profile!r}, which adds up to {total:g}"
    return None


def find_shares(profile: str, n_groups: int) -> list[float]:
    """Return one share for each group; a profile of explicit shares has as many as it has."""
    kind, _, rest = profile.partition(":")
    if kind == "shares":
        return [float(share) for share in rest.split(",")]
    ratio = float(rest.removesuffix(":reversed"))
    weights = [ratio ** (-group / max(1, n_groups - 1)) for group in range(n_groups)]
    weights = weights[::-1] if rest.endswith(":reversed") else weights
    return [weight / math.fsum(weights) for weight in weights]


def round_to_total(shares: list[float], total: int) -> list[int]:
    """Return whole numbers in these proportions that add up to `total`: the largest remainders are rounded up."""
    exact = [share * total for share in shares]
    counts = [math.floor(value + 1e-9) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda group: (counts[group] - exact[group], group))
    for group in by_remainder[: total - sum(counts)]:
        counts[group] += 1
    return counts

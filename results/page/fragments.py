"""What cells of the first screen and of the tables behind it are made of: verdicts, drops, disparities as HTML."""

from collections.abc import Iterable, Iterator
from typing import Final

from quantfair.results.page.catalog import Data
from quantfair.results.page.comparisons import ComparisonRow
from quantfair.results.page.formatting import (
    MISSING,
    escape,
    format_drop,
    format_interval,
    format_p,
    format_pp,
    render_number,
    shorten,
)
from quantfair.results.page.index import Drop, Facts, Row
from quantfair.results.schema import MIN_RANKED

# Words never stand alone on a colour; the shapes tell them apart in black and white too.
SHAPES: Final = {
    "harmless": "○", "degraded": "▼", "uneven": "▲", "collapsed": "■", "inconclusive": "?", "no verdict": "–",
}  # fmt: skip
NAME: Final = 24  # characters of a group's name in a cell
MOST_OUT: Final = 3  # groups out of play that a cell names


def lead(facts: Facts, data: Data, text: str) -> str:
    """Return the sentence that answers a question in short; of several data sets it names the one."""
    name = f"{facts.catalog.call(data)}: " if len(facts.catalog.data) > 1 else ""
    return f'<p class="lead">{escape(name + text)}</p>'


def nothing(reason: str) -> str:
    """Return the sentence that stands where a question has no answer."""
    return f'<p class="reason">No answer: {escape(reason)}.</p>'


def cell(*parts: str, label: str) -> str:
    """Return a cell of finished HTML; `label` is its column's name, for narrow screens."""
    return f'<td data-label="{escape(label)}"><div>{"".join(parts)}</div></td>'


def head(text: str, small: str = "") -> str:
    """Return the head of a row."""
    note = f" <small>{escape(small)}</small>" if small else ""
    return f'<th scope="row">{escape(text)}{note}</th>'


def small(*parts: str, kind: str = "") -> str:
    """Return small print of finished HTML; of the kind `more` on a line of its own."""
    named = f' class="{kind}"' if kind else ""
    return f" <small{named}>{''.join(parts)}</small>"


def name_bits(variant: str, bits: str) -> str:
    """Return "PTQ 8 bits", "PTQ W4A8", "FP32-FT"."""
    return variant if bits == "FP32" else f"{variant} {format_bits(bits)}"


def format_bits(bits: str) -> str:
    """Return "8 bits", "W4A8"."""
    return f"{bits} bits" if bits.isdigit() else bits


def name_group(name: str, length: int = NAME) -> str:
    """Return a group's name, cut to its place; the whole one is the tooltip, and it lights up in the charts."""
    return f'<span data-group="{escape(name)}" title="{escape(name)}">{escape(shorten(name, length))}</span>'


def render_word(loss: ComparisonRow) -> str:
    """Return the verdict with its shape; the rule with its numbers is the tooltip."""
    rule = loss.verdict.get("rule") or loss.verdict.get("reason") or "the tables have no verdict"
    provisional = " *" if loss.verdict.get("provisional") else ""
    kind = loss.word.replace(" ", "-")
    shape = f'<span aria-hidden="true">{SHAPES.get(loss.word, "")}</span>'
    return f'<b class="word {kind}" title="{escape(rule)}">{shape} {escape(loss.word)}{provisional}</b>'


def render_loss(loss: ComparisonRow) -> str:
    """Return the verdict, the worst group with its excess, whether it is chance, and what others are called."""
    told = escape(explain_no_worst(loss))
    if loss.worst:
        group, drop = loss.worst
        beyond = f"{format_pp(drop.eag_pp)} worse than all{format_interval(drop.eag_low_pp, drop.eag_high_pp)}"
        lost = render_number(f"{format_drop(drop.drop_pp)},", drop.drop_pp)
        told = f"{loss.grouping.prefix}{name_group(group.name)} {lost} {render_number(beyond, drop.eag_pp)}"
    others = f"other settings: {escape(format_others(loss))}" if loss.others else ""
    lines = [told, "; ".join(_format_evidence(loss)), others]
    return render_word(loss) + "".join(small(line, kind="more") for line in lines if line)


def _format_evidence(loss: ComparisonRow) -> Iterator[str]:
    """Yield the p, how near to no change every group is, and which groups had little to lose."""
    p, margin = loss.unevenness.get("perm_p"), loss.verdict.get("harmless_margin_pp")
    if p is not None:
        yield render_number(format_p(p), p)
    if margin is not None:
        noun, near = loss.grouping.noun, format_pp(margin)
        told = f"every {noun} within ±{near}" if loss.word == "harmless" else f"a {noun} may be off by up to ±{near}"
        yield render_number(told, margin)
    if out := loss.verdict.get("out_of_play"):
        more = f" and {len(out) - MOST_OUT} more" if len(out) > MOST_OUT else ""
        yield f"out of play: {', '.join(map(name_group, out[:MOST_OUT]))}{more}"


def explain_no_worst(loss: ComparisonRow) -> str:
    """Return why no group is named as the worst."""
    if not loss.verdict.get("word"):
        return loss.verdict.get("reason") or "the tables have no verdict"
    if loss.word == "no verdict":
        return loss.verdict["rule"]
    if loss.overall and loss.overall.flip_rate == 0:
        few = "" if loss.word == "harmless" else f"; too few images to show ±1 pp for every {loss.grouping.noun}"
        return f"no answer changes{few}"
    if not loss.in_play:
        return f"no {loss.grouping.noun} of {MIN_RANKED} test images is in play"
    return f"no {loss.grouping.noun} in play loses more than all images"


def format_others(loss: ComparisonRow) -> str:
    """Return the verdicts on other settings of this method and bits, and what their worst groups lose more than all."""
    if not loss.others:
        return ""
    words = ", ".join(f"{n} {word}" for word, n in loss.words_of_others.most_common())
    ends = loss.range_of_others
    return f"{words}; worst {loss.grouping.noun} {format_range(*ends)} worse than all" if ends else words


def format_range(low: float, high: float) -> str:
    """Return "0.9 to 1.4 pp", or one number where both ends read alike."""
    ends = dict.fromkeys((format_pp(low), format_pp(high)))
    return f"{' to '.join(ends)} pp"


def render_drop(drop: Drop | None) -> str:
    """Return "loses 3.1 pp [1.2, 5.0]"."""
    if drop is None:
        return MISSING
    return render_number(format_drop(drop.drop_pp, drop.low_pp, drop.high_pp), drop.drop_pp)


def render_disparity(evenness: Row, gap_pp: float | None = None) -> str:
    """Return "unevenness p = 0.01 (weighted); drops 3.1 pp apart (by chance under 2.0); accuracies 7.0 apart"."""
    value, p = evenness.get("drop_disparity_pp"), evenness.get("perm_p")
    if value is None:
        return escape(evenness.get("reason") or "no disparity is known")
    apart = f"drops {format_pp(value)} pp apart (by chance under {format_pp(evenness.get('null_q95_pp'))})"
    gap = f"; {render_number(f'accuracies {format_pp(gap_pp)} apart', gap_pp)}" if gap_pp is not None else ""
    return f"unevenness {render_number(format_p(p), p)} (weighted); {render_number(apart, value)}{gap}"


def join_cells(cells: Iterable[str], labels: Iterable[str]) -> str:
    """Return cells of finished HTML with the names of their columns."""
    return "".join(cell(text, label=label) for text, label in zip(cells, labels, strict=True))

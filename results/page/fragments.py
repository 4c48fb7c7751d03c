"""What cells of the first screen and of the tables behind it are made of: verdicts, drops, disparities as HTML."""

from collections.abc import Iterable, Iterator
from typing import Final

from quantfair.results.page.catalog import Data
from quantfair.results.page.comparisons import ComparisonRow
from quantfair.results.page.formatting import (
    MISSING,
    escape,
    format_drop,
    format_high,
    format_p,
    format_pp,
    render_number,
    shorten,
)
from quantfair.results.page.index import Drop, Facts, Row
from quantfair.results.schema import MIN_RANKED
from quantfair.results.statistics.decisions import NO_VERDICT

# Words never stand alone on a colour; the shapes tell them apart in black and white too.
SHAPES: Final = {
    "unchanged": "○", "harmless": "○", "small": "○", "loses": "▼", "uneven": "▲", "collapsed": "■",
    "not resolved": "?", "no verdict": "–",
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
    """Return the verdict with its shape; what it says in numbers is the tooltip."""
    kind, text = loss.word.replace(" ", "-"), loss.called
    shape = f'<span aria-hidden="true">{SHAPES.get(loss.word, "")}</span>'
    provisional = " *" if loss.verdict.get("provisional") else ""
    return f'<b class="word {kind}" title="{escape(_tell(loss.verdict))}">{shape} {escape(text)}{provisional}</b>'


def _tell(verdict: Row) -> str:
    return verdict.get("told") or verdict.get("reason") or "the tables have no verdict"


def render_loss(loss: ComparisonRow) -> str:
    """Return the verdict with its sentence, what each trained model is called, and what others are called."""
    lines = [*_list_files(loss), _format_out_of_play(loss)]
    lines += [f"other settings: {escape(format_others(loss))}"] if loss.others else []
    scope = (
        "" if loss.word == NO_VERDICT else "this recipe: " if loss.verdict.get("trial_id") is None else "this file: "
    )
    told = small(escape(scope + _tell(loss.verdict)), kind="more")
    return render_word(loss) + told + "".join(small(line, kind="more") for line in lines if line)


def _list_files(loss: ComparisonRow) -> Iterator[str]:
    """Yield what the models of several seeds are called, each on its own images; one alone has been told."""
    if len(loss.files) > 1:
        words = ", ".join(f"{n} {word}" for word, n in loss.words_of_files.most_common())
        yield f"its {len(loss.files)} files, one by one: {escape(words)}"


def _format_out_of_play(loss: ComparisonRow) -> str:
    """Return which groups had little to lose."""
    out = loss.verdict.get("out_of_play")
    if not out:
        return ""
    more = f" and {len(out) - MOST_OUT} more" if len(out) > MOST_OUT else ""
    return f"out of play: {', '.join(map(name_group, out[:MOST_OUT]))}{more}"


def explain_no_worst(loss: ComparisonRow) -> str:
    """Return why no group is named."""
    if loss.word == NO_VERDICT:
        return _tell(loss.verdict)
    if not loss.in_play:
        return f"no {loss.grouping.noun} of {MIN_RANKED} test images is in play"
    return f"no single {loss.grouping.noun}"


def format_others(loss: ComparisonRow) -> str:
    """Return the verdicts on other settings of this method and bits, and what each of them loses at most."""
    if not loss.others:
        return ""
    words = ", ".join(f"{n} {word}" for word, n in loss.words_of_others.most_common())
    ends = loss.range_of_others
    return f"{words}; at most {format_range(*ends)} lost" if ends else words


def format_range(low: float, high: float) -> str:
    """Return two upper limits as "0.9 to 1.4 pp", or one number where both read alike."""
    ends = dict.fromkeys((format_high(low), format_high(high)))
    return f"{' to '.join(ends)} pp"


def render_drop(drop: Drop | None) -> str:
    """Return "loses 3.1 pp [1.2, 5.0]"."""
    if drop is None:
        return MISSING
    return render_number(format_drop(drop.drop_pp, drop.low_pp, drop.high_pp), drop.drop_pp)


def render_disparity(evenness: Row, gap_pp: float | None = None) -> str:
    """Return "drops 3.1 pp apart (by chance under 2.0; p = 0.01, weighted); accuracies 7.0 apart".

    What chance shows is known of one seed alone.
    """
    value, p, floor = (evenness.get(name) for name in ("drop_disparity_pp", "null_p", "null_q95_pp"))
    if value is None:
        return escape(evenness.get("reason") or "no disparity is known")
    apart = render_number(f"drops {format_pp(value)} pp apart", value)
    if p is not None:
        apart += f" (by chance under {format_pp(floor)}; {render_number(format_p(p), p)}, weighted)"
    gap = f"; {render_number(f'accuracies {format_pp(gap_pp)} apart', gap_pp)}" if gap_pp is not None else ""
    return apart + gap


def join_cells(cells: Iterable[str], labels: Iterable[str]) -> str:
    """Return cells of finished HTML with the names of their columns."""
    return "".join(cell(text, label=label) for text, label in zip(cells, labels, strict=True))

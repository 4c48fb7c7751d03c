"""Facts in, the third and the fifth question out: quantization or training, QAT or PTQ; and do even data help?"""

from collections.abc import Sequence
from typing import Final

from quantfair.results.page.catalog import Data
from quantfair.results.page.comparisons import ComparisonRow, Question, compare_loss, count_bits, list_questions
from quantfair.results.page.formatting import MISSING, escape, format_interval, format_pp, render_number, render_table
from quantfair.results.page.fragments import (
    cell,
    format_bits,
    head,
    join_cells,
    lead,
    name_bits,
    nothing,
    render_disparity,
    render_drop,
    small,
)
from quantfair.results.page.headlines import lead_causes, lead_mixtures
from quantfair.results.page.index import TORCH, Drop, Facts, Row

AGAINST: Final = {  # -> variant, method, comparison
    "PTQ against FP32": ("PTQ", "ptq", "reference"),
    "QAT against FP32": ("QAT", "qat", "reference"),
    "QAT against FP32-FT": ("QAT", "qat", "control"),
    "QAT from scratch against FP32": ("QAT from scratch", "qat", "reference"),
    "Fine-tuning alone": ("FP32-FT", "fp32_ft", "reference"),
}

UNEVEN: Final = (
    '<p class="note">In brackets: the limits of what all images lose, and of QAT against PTQ a 95 % interval. Drops '
    "apart: the largest drop of a group minus the smallest. Of one seed it stands next to what chance stays under in "
    "95 of 100 draws, and to the p of a sharper test, in which every group is weighted by its noise. Over seeds no "
    "such test holds; the limits of each group say whether it loses more than the others. Accuracies apart: best minus "
    "worst group of the model named first, which may move the other way.</p>"
)
LIKE_FOR_LIKE: Final = "QAT against PTQ on FP32-FT"


def render_causes(facts: Facts, data: Sequence[Data]) -> str:
    """Return for each data set what all images lose, and how unevenly, in every comparison at every number of bits."""
    found = "".join(_render_data(facts, one) for one in data)
    return found + UNEVEN if found else nothing("no PTQ or QAT has finished with another to compare with")


def _render_data(facts: Facts, data: Data) -> str:
    grouping = data.groupings[0]
    losses = {
        title: {
            bits: loss
            for (variant, bits), loss in compare_loss(facts, data, grouping, method, comparison).items()
            if variant == wanted
        }
        for title, (wanted, method, comparison) in AGAINST.items()
    }
    effects = {title: {bits: _format(loss) for bits, loss in found.items()} for title, found in losses.items()}
    like = list_questions(facts, data, grouping, "qat_vs_ptq")
    effects[LIKE_FOR_LIKE] = {
        question.config.bits: render_drop(read_drop(question.row))
        + small(render_disparity(question.evenness, _find_gap(facts, question)))
        for question in like
    }
    sizes = {config.bits: count_bits(config) for config in facts.catalog.configs}
    known = dict.fromkeys(bits for found in effects.values() for bits in found if bits != "FP32")
    bits = sorted(known, key=lambda one: -sizes[one])
    if not bits:
        return ""
    titles = [format_bits(one) for one in bits]
    rows = []
    for title, found in effects.items():
        if "FP32" in found:
            rows.append(head(title, "no quantizer, no bits") + _across(len(bits), found["FP32"]))
        elif found:
            rows.append(head(title) + join_cells((found.get(one, MISSING) for one in bits), titles))
        elif title == LIKE_FOR_LIKE and losses["QAT against FP32-FT"]:
            rows.append(head(title) + _across(len(bits), "no PTQ of FP32-FT has the observers and BN folding of a QAT"))
    caption = f"{data.title}: what all images lose, and how unevenly by {grouping.heading}"
    table = render_table(["", *titles], rows, caption=caption, kind="matrix")
    drops = {title: {bits: loss.overall for bits, loss in found.items()} for title, found in losses.items()}
    drops[LIKE_FOR_LIKE] = {question.config.bits: read_drop(question.row) for question in like}
    return lead(facts, data, lead_causes(drops, bits[-1])) + table


def _find_gap(facts: Facts, question: Question) -> float | None:
    return facts.gaps.get((question.config.config_id, TORCH, question.grouping.name))


def _format(loss: ComparisonRow) -> str:
    return render_drop(loss.overall) + small(render_disparity(loss.evenness, loss.gap_pp))


def _across(n_columns: int, text: str) -> str:
    return f'<td colspan="{n_columns}" data-label="All bits"><div>{text}</div></td>'


def read_drop(row: Row) -> Drop:
    """Return what all images lose in a row of `contrasts`."""
    names = ("drop_pp", "drop_ci_low_pp", "drop_ci_high_pp", "flip_rate", "n_seeds", "other_config_id")
    drop_pp, low_pp, high_pp, *rest = (row[name] for name in names)
    return Drop(drop_pp, low_pp, high_pp, None, None, *rest)


MIXTURE_HEAD: Final = ("Data, against", "Method, bits", "Drop of all images", "How unevenly")


def render_mixtures(facts: Facts, data: Sequence[Data]) -> str:
    """Return what quantization costs more under less even training data, at equal size and on equal test images."""
    found = {one: list_questions(facts, one, one.groupings[0], "data") for one in data}
    rows = [_render_mixture(facts, one, question) for one, questions in found.items() for question in questions]
    if not rows:
        return nothing(
            "this sweep has one mixture of training data. To test it, give imbalance several values in the sweep file"
        )
    caption = "What is lost more under one mixture than under another"
    leads = "".join(
        lead(facts, one, lead_mixtures(quantized, _name_other(facts, quantized[0])))
        for one, questions in found.items()
        if (quantized := [question for question in questions if question.config.is_quantized])
    )
    return (
        leads
        + render_table(MIXTURE_HEAD, rows, caption=caption, kind="matrix")
        + (
            '<p class="note">The drop under the first data minus the drop under the second, on equal test images: a '
            "positive number says that more is lost under the first. FP32-FT: fine-tuning alone.</p>"
        )
    )


def _name_other(facts: Facts, question: Question) -> str:
    return facts.catalog.call(question.other.data) if question.other else str(question.row["other_level"])


def _render_mixture(facts: Facts, data: Data, question: Question) -> str:
    drop = read_drop(question.row)
    more = render_number(f"{format_pp(drop.drop_pp)} pp{format_interval(drop.low_pp, drop.high_pp)}", drop.drop_pp)
    return (
        head(facts.catalog.call(data), f"against {_name_other(facts, question)}")
        + cell(escape(name_bits(question.config.variant, question.config.bits)), label=MIXTURE_HEAD[1])
        + cell(more, label=MIXTURE_HEAD[2])
        + cell(render_disparity(question.evenness, _find_gap(facts, question)), label=MIXTURE_HEAD[3])
    )

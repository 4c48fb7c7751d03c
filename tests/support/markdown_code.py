"""The code blocks of the Markdown pages: where they stand, what they hold, and whether they say why they are not run.

A block that cannot run has the comment `<!-- not run: REASON -->` in the line before it. A block of a recipe begins
with a comment that says where it belongs: `# new file: PATH`, or `# PATH, below: LINE` (also `above`, `in place of`),
where LINE is a line of that file.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("orchestrator", "quant", "datasets", "results")
FENCE = "```"
REASON = re.compile(r"<!-- not run: (.*) -->")
NEW_FILE = re.compile(r"(?:#|//) new file: (\S+)")
CHANGE = re.compile(r"(?:#|//|<!--) (\S+), (below|above|in place of): (.+?)(?: -->)?")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page: the section that it is in, the word after its fence, and its text."""

    page: str
    line: int
    section: str
    tag: str
    text: str
    not_run: str | None

    @property
    def place(self) -> str:
        """The page and the line, as editors take them."""
        return f"{self.page}:{self.line}"


def list_pages() -> list[str]:
    """Return every page that people read, by its path. What lies in `tests/golden` and in stores is no such page."""
    paths = [*ROOT.glob("*.md"), *(ROOT / "tests" / "benchmarks").glob("*.md")]
    paths += [path for room in ROOMS for path in (ROOT / room).rglob("*.md") if "runs" not in path.parts]
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def read_blocks(page: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page from top to bottom."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    section = ""
    start = None
    for number, line in enumerate(lines):
        if not line.startswith(FENCE):
            if start is None and line.startswith("#"):
                section = line.lstrip("# ")
        elif start is None:
            start = number
        else:
            reason = REASON.fullmatch(lines[start - 1]) if start else None
            yield Block(
                page=page,
                line=start + 1,
                section=section,
                tag=lines[start].removeprefix(FENCE),
                text="\n".join(lines[start + 1 : number]) + "\n",
                not_run=reason[1] if reason else None,
            )
            start = None
    assert start is None, f"{page}: the block of line {start} has no end"


def apply_change(block: Block, root: Path) -> Path:
    """Write the block where its first line says, into the checkout at `root`; return the file."""
    first, _, text = block.text.partition("\n")
    if new := NEW_FILE.fullmatch(first):
        path = root / new[1]
        assert not path.exists(), f"{block.place}: {new[1]} is there already"
        path.write_text(text, encoding="utf-8")
        return path
    change = CHANGE.fullmatch(first)
    assert change, f"{block.place}: the first line must say where the block belongs, got {first!r}"
    path = root / change[1]
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    found = [number for number, line in enumerate(lines) if line.strip() == change[3].strip()]
    assert len(found) == 1, f"{block.place}: {change[1]} has this line {len(found)} times: {change[3]}"
    after = found[0] + (change[2] != "above")
    before = found[0] + (change[2] == "below")
    path.write_text("".join([*lines[:before], text, *lines[after:]]), encoding="utf-8")
    return path


def find_anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings, as the host of the repository makes them."""
    anchors = set()
    for line in re.sub(r"(?ms)^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8")).splitlines():
        if line.startswith("#"):
            words = re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower())
            anchors.add(words.replace(" ", "-"))
    return anchors

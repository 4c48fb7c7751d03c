"""The sweep: a plan of content-addressed trials, run inline or by Ray Tune. Start it with `python -m orchestrator`."""

from pathlib import Path

import datasets

_ROOT = Path(__file__).resolve().parent.parent
if datasets.__file__ is None or Path(datasets.__file__).resolve().parent.parent != _ROOT:
    raise ImportError(
        f"Python found another package named `datasets` ({datasets.__file__}), such as Hugging Face's. "
        f"Start from the project's root with `python -m orchestrator`, so that {_ROOT / 'datasets'} comes first."
    )

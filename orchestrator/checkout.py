"""The package `quantfair` of a checkout: where its folders are, and that no folder shadows another package's name.

The four rooms stand side by side at the top of a checkout, and their names are common: Hugging Face's package is called
`datasets`, too. So code says `quantfair.datasets`, and the checkout itself comes last on `sys.path`. This file imports
nothing of ours: it runs before `quantfair` can be imported.
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

PACKAGE = "quantfair"


def find_checkout() -> Path | None:
    """Return the root of the checkout that this file is in, or None where the package was installed from a wheel."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "orchestrator" / "package" / "__init__.py").is_file() else None


def put_checkout_last() -> None:
    """Move the checkout to the end of `sys.path`, so that its folders shadow no other package."""
    root = find_checkout()
    entries = [entry for entry in sys.path if root is not None and Path(entry or ".").resolve() == root]
    if entries and sys.path[-1] != str(root):
        sys.path[:] = [entry for entry in sys.path if entry not in entries]
        sys.path.append(str(root))


def use_checkout() -> None:
    """Make `quantfair` the package of this checkout, also where another one is installed, or none.

    In a worker of Ray that has no `quantfair` this is what runs first (`describe_workers`).
    """
    root = find_checkout()
    if root is None or is_installed(root):
        return
    home = root / "orchestrator" / "package" / "__init__.py"
    # Submodules are looked for in the root: `quantfair.quant` is the folder `quant` there.
    spec = spec_from_file_location(PACKAGE, home, submodule_search_locations=[str(root)])
    assert spec is not None
    assert spec.loader is not None
    package = module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)


def is_installed(root: Path) -> bool:
    """Return whether `import quantfair` finds the checkout at `root` by itself: `make install` links it."""
    found = PathFinder.find_spec(PACKAGE)
    if found is None or found.origin is None:
        return False
    return Path(found.origin).resolve() == root / "orchestrator" / "package" / "__init__.py"

"""The package `quantfair` of a checkout: a folder of links, and a checkout that shadows no other package's name.

The four rooms stand side by side at the top of a checkout, and their names are common: Hugging Face's package is called
`datasets`, too. So code says `quantfair.datasets`, the folder `.links` shows the rooms as that package, and the
checkout itself comes last on `sys.path`. `make install` runs this file, which writes the links and a `.pth` that names
them. (Of the editable modes of setuptools one hides the package from type checkers, and the other misses new files.)

This file imports nothing of ours: it runs before `quantfair` can be imported.
"""

import atexit
import os
import shutil
import sys
import sysconfig
import tempfile
import tomllib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "quantfair"
ROOMS = ("orchestrator", "quant", "datasets", "results")
LINKS = ".links"


def find_checkout() -> Path | None:
    """Return the root of the checkout that this file is in, or None where the package was installed from a wheel."""
    root = Path(__file__).resolve().parent.parent
    return root if is_checkout(root) else None


def is_checkout(folder: Path) -> bool:
    """Return whether a folder holds the rooms side by side."""
    # Not `Path.is_file`, which raises PermissionError for a folder that this user may not enter.
    return os.path.isfile(folder / "orchestrator" / "package" / "__init__.py")


def put_checkout_last() -> None:
    """Move every checkout to the end of `sys.path`, so that its folders shadow no other package.

    It stays there: a user's own modules may lie next to the rooms. A checkout may be the current folder of a program
    that was installed from a wheel, too.
    """
    checkouts = [entry for entry in sys.path if is_checkout(Path(entry or "."))]
    if checkouts:
        others = [entry for entry in sys.path if entry not in checkouts]
        sys.path[:] = [*others, *dict.fromkeys(str(Path(entry or ".").resolve()) for entry in checkouts)]


def put_current_folder_last() -> None:
    """Let Python find modules in the current folder, after all others: an installed command does not look there."""
    here = Path.cwd()
    others = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    sys.path[:] = [*others, str(here)]


def find_command() -> list[str]:
    """Return the words that start the command line from the current folder.

    `python -m orchestrator` works without an installation, but only from the checkout itself.
    """
    return ["python", "-m", "orchestrator"] if Path.cwd() == find_checkout() else [PACKAGE]


def find_version() -> str:
    """Return the version of this program: a checkout's own, even if another version is installed."""
    root = find_checkout()
    if root is None:
        return metadata.version(PACKAGE)
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return project["project"]["version"]


def use_checkout() -> None:
    """Make `quantfair` the package of this checkout, also where another one is installed, or none.

    Processes that this one starts find it, too. On a cluster whose nodes have no `quantfair`, each worker of Ray calls
    this first.
    """
    root = find_checkout()
    if root is None or is_installed(root):
        return
    try:
        links = make_links(root, root / LINKS)
    except OSError:  # a checkout that may not be written to
        links = make_links(root, Path(tempfile.mkdtemp(prefix="quantfair-links-")))
        atexit.register(shutil.rmtree, links, ignore_errors=True)
    sys.path.insert(0, str(links))
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(links), *([others] if others else [])])


def is_installed(root: Path) -> bool:
    """Return whether `import quantfair` finds the checkout at `root` by itself."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        return False
    return Path(found.origin).resolve() == root / "orchestrator" / "package" / "__init__.py"


def make_links(root: Path, folder: Path) -> Path:
    """Make the links of the checkout at `root` in `folder`, and return it. Links that are there already are kept."""
    package = folder / PACKAGE
    package.mkdir(parents=True, exist_ok=True)
    targets = [root / room for room in ROOMS]
    targets += [path for path in (root / "orchestrator" / "package").iterdir() if path.is_file()]
    for target in targets:
        link = package / target.name
        if link.resolve() == target:
            continue
        aside = package / f".{target.name}.{os.getpid()}"  # several workers may make the links at once
        aside.symlink_to(target)
        aside.replace(link)
    return folder


def install_links() -> None:
    """Make the links of this checkout, and tell this Python of them in a `.pth` file."""
    root = find_checkout()
    assert root is not None
    links = make_links(root, root / LINKS)
    place = Path(sysconfig.get_path("purelib"), f"{PACKAGE}.pth")
    place.write_text(f"{links}\n", encoding="utf-8")


if __name__ == "__main__":
    install_links()

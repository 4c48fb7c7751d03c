"""A Ray of this machine alone: it listens on loopback, asks for a token, and keeps its files in a private folder.

By itself Ray listens on every network of the machine, writes its token into the home folder, and lets every user of the
machine write into its session folder (mode 0777), which holds its sockets. Whoever gets in runs programs as the user
who started the sweep. Settings of Ray that the user has made stay as they are; `warn_of_doors` says which are open.
"""

import atexit
import ipaddress
import os
import secrets
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import ray
from ray._common.utils import env_bool
from ray._private import ray_constants
from ray._raylet import (
    AuthenticationMode,  # type: ignore[attr-defined]
    AuthenticationTokenLoader,  # type: ignore[attr-defined]
    Config,  # type: ignore[attr-defined]
    get_authentication_mode,  # type: ignore[attr-defined]
)

AUTH_MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
TEMP_DIR = "RAY_TMPDIR"
# Its name says what Ray made it for. On every system 0 means: no other machine can join, everything uses 127.0.0.1.
# `_node_ip_address` of `ray.init` does not do it: Ray 2.60 replaces a loopback address by an outer one.
IS_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
LONGEST = 20  # characters of a temporary folder: the paths to Ray's sockets, 87 longer, may have 107

_undo = ExitStack()


class OpenDoorError(RuntimeError):
    """Ray listens to other machines although it was told not to."""


def start_local(**options: Any) -> Any:
    """Start a Ray that ends with `stop_local`, at the latest with this process; return its context.

    Raises:
        AuthenticationError: RAY_AUTH_TOKEN_PATH is the user's own, and there is no token.
        OpenDoorError: this version of Ray cannot be kept on loopback.
    """
    is_ours = not os.environ.get(IS_CLUSTER)
    try:
        _close_doors(options)
        context = ray.init(address="local", **options)
    except BaseException:
        undo()  # and no `ray.shutdown`: a Ray that was here before is not ours
        raise
    address = ray.util.get_node_ip_address()
    if is_ours and not _is_loopback(address):
        stop_local()
        raise OpenDoorError(f"Ray {ray.__version__} listens on {address}, although it was told to stay on 127.0.0.1")
    return context


def stop_local() -> None:
    """End the Ray of this process, or leave the cluster that it joined, and undo what was done for it."""
    ray.shutdown()
    undo()


def set_variable(name: str, value: str) -> None:
    """Set a variable of the environment that the user has not set, until `stop_local`."""
    if not os.environ.get(name):
        os.environ[name] = value
        undo_later(os.environ.pop, name, None)


def undo_later(change: Callable[..., object], *arguments: object) -> None:
    """Let `stop_local` call a function that takes a change back."""
    _undo.callback(change, *arguments)


def undo() -> None:
    """Take back every change that `undo_later` knows, the newest first."""
    _undo.close()


def _close_doors(options: dict[str, Any]) -> None:
    """Set what the user has not set, until `stop_local`: variables, and an option of `ray.init`."""
    atexit.register(stop_local)  # where nobody calls it
    # Mode 0700. Ray's last processes may still write into it while it is removed.
    place = gettempdir() if len(gettempdir()) <= LONGEST else "/tmp"
    folder = TemporaryDirectory(prefix="quantfair-", dir=place, ignore_cleanup_errors=True)
    _undo.enter_context(folder)
    undo_later(_read_variables)
    set_variable(AUTH_MODE, "token")
    set_variable(IS_CLUSTER, "0")
    if not any(os.environ.get(name) for name in (TOKEN, TOKEN_PATH)):
        token = Path(folder.name, "token")
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        set_variable(TOKEN_PATH, str(token))
    if not os.environ.get(TEMP_DIR):
        options["_temp_dir"] = str(Path(folder.name, "ray"))  # Ray gives this one mode 0777, in a folder of mode 0700
    _read_variables()


def _read_variables() -> None:
    """Make Ray read its variables again: it has read them when it was imported, which may be long ago."""
    default = not ray_constants.IS_WINDOWS_OR_OSX
    ray_constants.ENABLE_RAY_CLUSTER = env_bool(IS_CLUSTER, default)
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def find_token_command() -> str | None:
    """Return the command that shows the token of the Ray that this process is in, or None where it asks for none."""
    if get_authentication_mode() != AuthenticationMode.TOKEN:
        return None
    if os.environ.get(TOKEN):
        return f"printenv {TOKEN}"
    path = os.environ.get(TOKEN_PATH) or Path.home() / ".ray" / "auth_token"
    return shlex.join(["cat", str(path)])


def warn_of_doors() -> list[str]:
    """Return a line for each door of a local Ray that the user's own settings leave open."""
    lines = []
    if get_authentication_mode() != AuthenticationMode.TOKEN:
        who = "whoever reaches Ray's ports runs programs as you"
        lines.append(f"{AUTH_MODE}={os.environ.get(AUTH_MODE)} turns Ray's authentication off: {who}.")
    address = ray.util.get_node_ip_address()
    if not _is_loopback(address):
        setting = f"{IS_CLUSTER}={os.environ.get(IS_CLUSTER)}"
        lines.append(f"{setting} makes Ray listen on {address}: other machines reach its ports.")
    folder = os.environ.get(TEMP_DIR)
    if folder and _others_may_enter(Path(folder)):
        remedy = f"unset it, or `chmod 700 {shlex.quote(folder)}`"
        lines.append(f"{TEMP_DIR}={folder} keeps Ray's sockets where other users of this machine reach them: {remedy}.")
    return lines


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _others_may_enter(folder: Path) -> bool:
    """Return whether every folder on the way, and the folder itself, lets its group or everybody in."""
    folder = folder.resolve()
    return all(place.stat().st_mode & 0o011 for place in (folder, *folder.parents))

"""What a sweep's Ray leaves open to others: nothing beyond loopback, nothing without its token, nothing in the home."""

import ipaddress
import logging
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
import ray
from cluster_nodes import NODE, RAY, ROOT, end_of, free_port, own_folder, start_simulation, started
from processes import LIMIT_S, find_family, wait_until
from ray._private import ray_constants
from ray._private.services import get_node_ip_address
from test_progress import draw, make_queue
from test_sweep import SWEEP

from quantfair.orchestrator.config.errors import RequestError
from quantfair.orchestrator.executors.progress import ProgressLines
from quantfair.orchestrator.executors.progress_table import ProgressTable
from quantfair.orchestrator.executors.ray_cluster import connect
from quantfair.orchestrator.executors.ray_local import find_token_command, start_local, stop_local, warn_of_doors
from quantfair.orchestrator.executors.ray_tune import _say_where

STRANGER = """
import sys, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
print("the stranger got", ray.get(ray.remote(num_cpus=0)(lambda: 42).remote(), timeout=60))
"""
IMPATIENT = {"RAY_NUM_REDIS_GET_RETRIES": "2"}  # Ray asks twenty times, a second apart
SETTINGS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
SETTINGS += ("RAY_TMPDIR", "RAY_ADDRESS")


def clean_environment(**more: str) -> dict[str, str]:
    """This process's, without any of Ray's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


@dataclass(frozen=True)
class Listener:
    """A socket that waits for others: where, and the command of its process."""

    place: str
    command: str


def read_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address of "0100007F:1F90", or of its longer kind: words of four bytes in the machine's order."""
    words = [text[start : start + 8] for start in range(0, len(text.partition(":")[0]), 8)]
    address = ipaddress.ip_address(b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words))
    return getattr(address, "ipv4_mapped", None) or address


def find_listeners(pid: int) -> tuple[list[Listener], list[Listener]]:
    """Return the listening sockets of a process and of all under it: those of networks, and those in folders."""
    of_networks: dict[str, str] = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # listens
                of_networks[fields[9]] = str(read_address(fields[1]))
    in_folders: dict[str, str] = {}
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[3], 16) & 0x10000 and len(fields) > 7:  # listens, and has a path
            in_folders[fields[6]] = fields[7]
    commands = {pid: "driver", **find_family(pid)}
    inodes = [(inode, command) for process, command in commands.items() for inode in list_sockets(process)]
    return (
        [Listener(of_networks[inode], command) for inode, command in inodes if inode in of_networks],
        [Listener(in_folders[inode], command) for inode, command in inodes if inode in in_folders],
    )


def list_sockets(pid: int) -> set[str]:
    found = set()
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            match = re.match(r"socket:\[(\d+)\]", os.readlink(descriptor))
            if match:
                found.add(match[1])
    except FileNotFoundError:  # the process, or one of its descriptors, went meanwhile
        pass
    return found


def is_private(path: Path) -> bool:
    """Whether a folder above the path is closed to all but its owner."""
    return any(stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0 for folder in path.parents)


def call_as_stranger(address: str, **known: str) -> tuple[int, str]:
    """Join a Ray from a process with another home; return its exit code and output."""
    home = own_folder()
    # It takes the loopback address as it is, which Ray otherwise replaces by the machine's outer one.
    variables = {"HOME": home, "PATH": os.environ["PATH"], "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **IMPATIENT}
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, address],
        cwd=home,
        env={**variables, **known},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def ask_dashboard(url: str, **headers: str) -> int:
    """Return the status of the dashboard's answer to a question about jobs."""
    request = urllib.request.Request(f"{url}/api/jobs/", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@dataclass(frozen=True)
class Sight:
    """What was seen of a sweep while it ran, and what it left behind."""

    said: str
    networks: list[Listener]
    folders: list[Listener]
    reachable: list[Listener]  # those in folders that others may enter
    stranger: tuple[int, str]
    friend: tuple[int, str]  # a stranger who has the token
    answers: dict[str, int]
    token_file: Path
    modes: dict[str, int]
    exit_code: int
    home: list[str]
    left: list[str]


@pytest.fixture(scope="module")
def sight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sight]:
    folder, temp, home = tmp_path_factory.mktemp("doors"), own_folder(), own_folder()
    (folder / "tiny.toml").write_text(SWEEP)
    words = (str(folder / "tiny.toml"), "seeds=[0]", "quant=[]", "experiments.0.train.epochs=1000000")
    with (folder / "said").open("wb") as said:
        driver = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "sweep", *words, "--store", str(folder / "store")],
            cwd=ROOT,
            env=clean_environment(HOME=home, TMPDIR=temp, QUANTFAIR_DATA=str(folder / "data")),
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    try:
        yield look(driver, folder / "said", home=home, temp=temp)
    finally:
        driver.kill()
        driver.wait()


def look(driver: subprocess.Popen[bytes], said: Path, *, home: str, temp: str) -> Sight:
    """Look at a sweep that trains, then interrupt it."""
    wait_until(lambda: "epoch " in said.read_text() or driver.poll() is not None, "a trial trains")
    text = said.read_text()
    assert driver.poll() is None, text
    networks, folders = find_listeners(driver.pid)
    url, command = re.findall(r"Ray dashboard: (\S+)\nits token: (.+)\n", text)[0]
    token = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True).stdout
    token_file = Path(shlex.split(command)[1])
    raylet = next(command for command in find_family(driver.pid).values() if "/raylet " in command)
    address = re.findall(r"--gcs-address=(\S+)", raylet)[0]
    answers = {
        "nothing": ask_dashboard(url),
        "another token": ask_dashboard(url, Authorization=f"Bearer {'0' * 64}"),
        "the token": ask_dashboard(url, Authorization=f"Bearer {token}"),
        "the cookie": ask_dashboard(url, Cookie=f"ray-authentication-token={token}"),
    }
    seen = {
        "networks": networks,
        "folders": folders,
        "reachable": [listener for listener in folders if not is_private(Path(listener.place))],
        "stranger": call_as_stranger(address),
        "friend": call_as_stranger(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token),
        "answers": answers,
        "token_file": token_file,
        "modes": {path.name: stat.S_IMODE(path.stat().st_mode) for path in (token_file, token_file.parent)},
    }
    driver.send_signal(signal.SIGINT)
    exit_code = driver.wait(LIMIT_S)
    assert token_file.parent.parent == Path(temp)
    left = [path.name for path in Path(temp).iterdir() if "quantfair" in path.name or "ray" in path.name]
    return Sight(
        said=said.read_text(), exit_code=exit_code, home=[path.name for path in Path(home).iterdir()], left=left, **seen
    )


in_proc = pytest.mark.skipif(
    not Path("/proc/net/tcp").is_file(), reason="finds sockets in /proc, which is missing here"
)


@in_proc
@pytest.mark.alone
def test_every_process_of_a_sweep_listens_on_loopback_alone(sight: Sight) -> None:
    for part in ("driver", "gcs_server", "/raylet ", "dashboard", "DashboardAgent", "RuntimeEnvAgent", "SweepWorker"):
        assert any(part in listener.command for listener in sight.networks), f"{part} was not seen"
    assert [listener for listener in sight.networks if not ipaddress.ip_address(listener.place).is_loopback] == []


@in_proc
@pytest.mark.alone
def test_sockets_in_folders_are_where_others_cannot_go(sight: Sight) -> None:
    assert any(listener.place.endswith("/raylet") for listener in sight.folders)
    assert sight.reachable == []
    assert sight.modes == {"token": 0o600, sight.token_file.parent.name: 0o700}


@in_proc
@pytest.mark.alone
def test_a_stranger_is_refused_and_one_who_has_the_token_is_not(sight: Sight) -> None:
    code, said = sight.stranger
    assert code != 0
    assert "the stranger got" not in said
    assert "Authentication token is missing or incorrect" in said
    code, said = sight.friend
    assert (code, said.splitlines()[0]) == (0, "the stranger got 42")


@in_proc
@pytest.mark.alone
def test_the_dashboard_answers_those_who_have_the_token_that_the_sweep_shows(sight: Sight) -> None:
    assert sight.answers == {"nothing": 401, "another token": 403, "the token": 200, "the cookie": 200}


@in_proc
@pytest.mark.alone
def test_a_sweep_leaves_nothing_in_the_home_folder_and_takes_its_token_with_it(sight: Sight) -> None:
    assert sight.exit_code == 130, sight.said
    assert sight.home == []
    assert sight.left == []
    assert not sight.token_file.exists()


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment without Ray's settings, and a `ray.init` that starts nothing."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray, "init", lambda **options: options)
    yield monkeypatch
    stop_local()


def settings() -> dict[str, str]:
    return {name: os.environ[name] for name in SETTINGS if name in os.environ}


def test_a_local_ray_has_a_token_of_its_own_and_takes_back_what_it_set(no_settings: pytest.MonkeyPatch) -> None:
    options = start_local()
    path = Path(settings()["RAY_AUTH_TOKEN_PATH"])
    assert settings() == {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(path),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    assert re.fullmatch("[0-9a-f]{64}", path.read_text())
    assert options == {"address": "local", "_temp_dir": str(path.parent / "ray")}
    assert get_node_ip_address() == "127.0.0.1"
    assert find_token_command() == f"cat {path}"
    assert warn_of_doors() == []
    stop_local()
    assert settings() == {}
    assert not path.parent.exists()
    assert find_token_command() is None
    assert ray_constants.ENABLE_RAY_CLUSTER is not ray_constants.IS_WINDOWS_OR_OSX


def test_two_local_rays_have_two_tokens(no_settings: pytest.MonkeyPatch) -> None:
    tokens = set()
    for _ in range(2):
        start_local()
        tokens.add(Path(settings()["RAY_AUTH_TOKEN_PATH"]).read_text())
        stop_local()
    assert len(tokens) == 2


def test_the_paths_of_sockets_stay_short_where_the_temporary_folder_is_long(
    no_settings: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    no_settings.setattr("tempfile.tempdir", str(long))
    options = start_local()
    longest = f"{options['_temp_dir']}/session_2026-12-31_23-59-59_999999_4194304/sockets/plasma_store"
    assert len(longest) <= 107  # of Linux, and of Ray


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, None),
        ({"RAY_AUTH_TOKEN": "mine"}, "printenv RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN_PATH": "/tmp/my token"}, "cat '/tmp/my token'"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "mine", "RAY_TMPDIR": "/tmp"}, "printenv RAY_AUTH_TOKEN"),
        ({"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "RAY_AUTH_TOKEN": "mine"}, "printenv RAY_AUTH_TOKEN"),
    ],
)
def test_what_the_user_has_set_stays(
    given: dict[str, str], command: str | None, no_settings: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        no_settings.setenv(name, value)
    options = start_local()
    assert {name: settings()[name] for name in given} == given
    assert ("_temp_dir" in options) == ("RAY_TMPDIR" not in given)
    assert find_token_command() == command
    stop_local()
    assert settings() == given


def test_authentication_that_the_user_has_turned_off_is_said_in_one_line(no_settings: pytest.MonkeyPatch) -> None:
    no_settings.setenv("RAY_AUTH_MODE", "disabled")
    start_local()
    (warning,) = warn_of_doors()
    assert warning.startswith("RAY_AUTH_MODE=disabled turns Ray's authentication off: whoever reaches Ray's ports")


def test_ports_that_the_user_has_opened_to_other_machines_are_said_in_one_line(no_settings: pytest.MonkeyPatch) -> None:
    no_settings.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    no_settings.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.7")
    start_local()
    (warning,) = warn_of_doors()
    assert warning.startswith("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=1 makes Ray listen on 192.0.2.7: other machines")


@pytest.mark.parametrize(("mode", "is_open"), [(0o700, False), (0o755, True), (0o710, True)])
def test_a_temporary_folder_of_the_user_that_others_may_enter_is_said_in_one_line(
    mode: int, is_open: bool, no_settings: pytest.MonkeyPatch
) -> None:
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(mode)
        no_settings.setenv("RAY_TMPDIR", folder)
        start_local()
        told = [f"RAY_TMPDIR={folder} keeps Ray's sockets where other users of this machine reach them: unset it, or "]
        warnings = [warning.partition("`")[0] for warning in warn_of_doors()]
        assert warnings == (told if is_open else [])


def test_a_ray_that_cannot_be_kept_on_loopback_is_ended(no_settings: pytest.MonkeyPatch) -> None:
    ended = []
    no_settings.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.7")
    no_settings.setattr(ray, "shutdown", lambda: ended.append(True))
    with pytest.raises(
        RequestError, match=r"`executor` cannot be used: Ray .* listens on 192\.0\.2\.7, although it was"
    ):
        connect(None, job={})
    assert ended
    assert settings() == {}


def test_a_sweep_leaves_variables_handlers_and_loggers_as_they_were(no_settings: pytest.MonkeyPatch) -> None:
    no_settings.setattr(ray, "init", lambda **options: SimpleNamespace(dashboard_url=None))
    no_settings.setenv("TUNE_RESULT_BUFFER_LENGTH", "7")  # the user's own
    no_settings.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)
    set_handlers = []
    no_settings.setattr(signal, "signal", lambda number, handler: set_handlers.append((number, handler)))
    logging.getLogger("ray.tune").setLevel(logging.WARNING)
    before = dict(os.environ)
    connect(None, job={})
    assert os.environ["TUNE_RESULT_BUFFER_LENGTH"] == "7"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert logging.getLogger("ray.tune").level == logging.CRITICAL
    stop_local()
    assert dict(os.environ) == before
    assert logging.getLogger("ray.tune").level == logging.WARNING
    assert set_handlers == [(signal.SIGTERM, signal.default_int_handler), (signal.SIGTERM, signal.SIG_IGN)]


def test_a_token_of_the_user_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(RequestError, match=r"`RAY_AUTH_TOKEN_PATH` names no token .*: name a file that holds one"):
        connect(None, job={})
    assert "RAY_AUTH_MODE" not in os.environ


def test_the_line_after_the_dashboards_address_shows_its_token(
    no_settings: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_settings.setenv("RAY_AUTH_TOKEN", "mine")
    start_local()
    lines, table = ProgressLines(make_queue()), ProgressTable(make_queue())
    for progress in (lines, table):
        _say_where(progress, 2, "http://127.0.0.1:8265", is_local=True)
    expected = [
        "on Ray, 2 trials at a time   Ray dashboard: http://127.0.0.1:8265",
        "its token: printenv RAY_AUTH_TOKEN",
    ]
    assert capsys.readouterr().out.splitlines() == expected
    assert [line.rstrip() for line in draw(table, width=80)][-2:] == expected


@pytest.fixture(scope="module")
def guarded_head() -> Iterator[str]:
    """The address of a cluster that asks for the token `secret`."""
    port = free_port()
    options = ("--block", "--disable-usage-stats", f"--port={port}", "--include-dashboard=false")
    node = (f"--num-cpus={NODE['num_cpus']}", f"--object-store-memory={NODE['object_store_memory']}")
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "secret" * 8}
    with started(RAY, "start", "--head", *options, *node, f"--temp-dir={own_folder()}", **secret):
        address = f"{get_node_ip_address()}:{port}"
        wait_until(lambda: is_open(address), "the head listens")
        yield address


def is_open(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return True
    except OSError:
        return False


@pytest.mark.alone
@pytest.mark.parametrize(
    ("known", "code", "expected"),
    [
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "secret" * 8}, 0, "0 failed"),
        ({"RAY_AUTH_MODE": "token"}, 2, "cannot be joined (Token authentication is enabled but no authentication"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "guess" * 8}, 2, "If it asks for a token, set RAY_AUTH_MODE"),
        ({"RAY_AUTH_MODE": "disabled"}, 2, "If it asks for a token, set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or"),
    ],
)
def test_a_cluster_that_asks_for_a_token_is_joined_with_it_alone(
    known: dict[str, str], code: int, expected: str, guarded_head: str, tmp_path: Path
) -> None:
    variables = {"HOME": own_folder(), **IMPATIENT, **known}
    words = ["quickstart", "seeds=[0]", "quant=[]"]
    ended, said = end_of(start_simulation(tmp_path / "store", guarded_head, words, variables=variables))
    assert ended == code, said
    assert expected in said

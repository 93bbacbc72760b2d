"""Tests cannot reach the network; loopback servers that a test starts itself are fine."""

from __future__ import annotations

import ipaddress
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tutelage.errors import InputError

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores: torch's threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell that starts this in the background: programs under test would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = Path(os.environ.get("TUTELAGE_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse every connection that leaves this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else "127.0.0.1"
        if not _is_loopback(host):
            raise AssertionError(f"a test tried to reach {host}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    yield


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@pytest.fixture
def data() -> Path:
    """The folder of public benchmark data; skips where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no benchmark data at {DATA}; set TUTELAGE_DATA")
    return DATA


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, saying why."""
    reasons = {"data": _why_no_data(), "model": _why_no_model(), "web": "" if chromium() else "no chromium on the path"}
    for item in items:
        for mark, reason in reasons.items():
            if reason and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


def chromium() -> str | None:
    """The browser for tests marked `web`, if there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def _why_no_data() -> str:
    return "" if DATA.is_dir() else f"no benchmark data at {DATA}; set TUTELAGE_DATA"


def _why_no_model() -> str:
    try:
        from tutelage.models.gguf import check_installed, find_gguf

        check_installed()  # without importing it: how its threads wait is settled at import
        find_gguf("smollm2-135m")
    except (ImportError, InputError) as absent:
        return f"the embedded model is not installed: {absent}"
    return ""

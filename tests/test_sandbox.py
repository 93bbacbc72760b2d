"""The sandbox: what it gives, and attacks on it with every means that this machine has, and with fewer."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from ast import literal_eval
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.errors import InputError
from tutelage.sandbox import SandboxAbilities, SandboxLimits, Stopped, process, run, run_python, sandbox_abilities
from tutelage.sandbox import abilities as abilities_module
from tutelage.sandbox.inside import seccomp, wire

pytestmark = [pytest.mark.alone, pytest.mark.skipif(sys.platform == "win32", reason="the sandbox needs Linux or macOS")]

QUICK = SandboxLimits(seconds=0.4)
IGNORING = """
import signal
for n in range(1, 32):
    try: signal.signal(n, signal.SIG_IGN)
    except OSError: pass
while True: pass
"""
WEAKER = {
    "all": {},
    "landlock": {"namespaces": False, "own_user": False, "count_processes": False, "landlock": True},
    "seccomp": {"namespaces": False, "own_user": False, "count_processes": False, "landlock": False},
    "bare": {"namespaces": False, "own_user": False, "count_processes": False, "landlock": False, "seccomp": False},
}


def weakened(name: str) -> SandboxAbilities:
    able = sandbox_abilities().model_copy(update=WEAKER[name])
    if name == "landlock" and abilities_module._problem(able):
        pytest.skip("needs landlock: rules on files without privileges (Linux 5.13)")
    if name == "seccomp" and not able.seccomp:
        pytest.skip("needs seccomp: a filter of system calls")
    return able


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """A word on the command line of every process of this test's sandboxes."""
    word = uuid4().hex
    monkeypatch.setattr(process, "COMMAND", (*process.COMMAND, word))
    return word


@pytest.fixture(params=WEAKER)
def able(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, mark: str) -> Iterator[SandboxAbilities]:
    """The machine's abilities, all and fewer. Whatever the test does, nothing may be left of it."""
    chosen = weakened(request.param)
    monkeypatch.setattr(run, "sandbox_abilities", lambda: chosen)
    yield chosen
    if chosen.leaves_nothing:
        assert still_there(mark) == []


def still_there(mark: str) -> list[int]:
    """Processes that carry the mark, after a moment in which the kernel may bury them."""
    for _ in range(20):
        if not (found := carriers(mark)):
            return []
        time.sleep(0.05)
    return found


def carriers(mark: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def need(able: SandboxAbilities, ability: str) -> None:
    if not getattr(able, ability):
        pytest.skip(f"needs `{ability}`, which this set of abilities has not: {able.missing or 'left out for this test'}")


# What it gives


async def test_a_program_runs_with_input_files_and_exit_code(able):
    result = await run_python(
        "import sys\nprint(open('data/in.txt').read() + input())\nprint('odd', file=sys.stderr)\nsys.exit(3)",
        stdin="line\n",
        files={"data/in.txt": "file and "},
    )
    assert (result.stdout, result.stderr, result.exit_code, result.stopped) == ("file and line\n", "odd\n", 3, None)
    assert not result.ok and not result.truncated
    assert (await run_python("print('fine')")).ok


async def test_an_error_is_shown_as_python_does_without_frames_of_ours(able):
    result = await run_python("def f():\n    return 1 / 0\nf()")
    lines = result.stderr.splitlines()
    assert result.exit_code == 1
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == '  File "<code>", line 3, in <module>' and "    return 1 / 0" in lines
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert "boot" not in result.stderr and "tutelage" not in result.stderr


async def test_the_folder_is_empty_at_first_and_gone_afterwards(able, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = tmp_path.stat().st_mode
    result = await run_python("import os\nprint(os.listdir())\nos.makedirs('a/b')\nopen('a/b/c', 'w').write('x')\nos.chmod('a', 0)")
    assert result.stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []
    assert tmp_path.stat().st_mode == before


def test_removing_a_folder_touches_nothing_outside_of_it(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "kept").write_text("kept")
    link = tmp_path / "tutelage-sandbox-x"
    link.symlink_to(outside)
    process.remove(str(link))  # the folder was replaced by a link
    inside = tmp_path / "work"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    (inside / "shut").mkdir(mode=0)
    process.remove(str(inside))
    process.remove(str(inside))  # it is gone already
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert outside.stat().st_mode & 0o777 == 0o755
    assert (outside / "kept").read_text() == "kept"


async def test_the_environment_and_open_files_are_not_handed_on(able, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    result = await run_python(
        "import os, sys\nprint(sorted(os.environ))\nprint([n for n in range(3, 60) if os.path.exists(f'/dev/fd/{n}')])\n"
        "found = []\nfor n in range(3, 60):\n    try: os.fstat(n); found.append(n)\n    except OSError: pass\nprint(found, sys.path)"
    )
    assert "secret" not in result.stdout
    names, _, found = result.stdout.splitlines()
    assert set(literal_eval(names)) <= {"HOME", "LANG", "PATH", "TMPDIR", "LC_CTYPE", "__CF_USER_TEXT_ENCODING"}
    assert found.startswith("[] ")
    assert "site-packages" not in found


async def test_many_at_once(able):
    results = await asyncio.gather(*(run_python(f"print({n} ** 2)") for n in range(24)))
    assert [int(result.stdout) for result in results] == [n**2 for n in range(24)]


async def test_cancelling_ends_everything(able, mark):
    code = "import os, time\nif not os.fork(): os.setsid()\ntime.sleep(60)"
    running = asyncio.create_task(run_python(code, limits=SandboxLimits(seconds=60)))
    await asyncio.sleep(0.4)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    if able.leaves_nothing:
        assert still_there(mark) == []


async def test_the_death_of_the_caller_ends_everything(able, mark, tmp_path):
    if not able.leaves_nothing:
        pytest.skip("needs Linux: elsewhere nothing tells a process that its parent died")
    may = able.model_dump()
    caller = (
        "import asyncio\nfrom tutelage.sandbox import process, run, SandboxAbilities, SandboxLimits\n"
        f"process.COMMAND = (*process.COMMAND, {mark!r})\nable = SandboxAbilities(**{may!r})\nrun.sandbox_abilities = lambda: able\n"
        "asyncio.run(run.run_python('import time; time.sleep(60)', limits=SandboxLimits(seconds=60)))"
    )
    outer = await asyncio.create_subprocess_exec(sys.executable, "-c", caller, env={**os.environ, "TMPDIR": str(tmp_path)})
    for _ in range(100):
        await asyncio.sleep(0.05)
        if len(carriers(mark)) >= 3:  # the caller itself among them
            break
    outer.kill()
    await outer.wait()
    assert still_there(mark) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", "", "a\0b"])
async def test_files_may_not_lead_out_of_the_folder(path):
    with pytest.raises(InputError, match="relative"):
        await run_python("", files={path: "x"})


@pytest.mark.parametrize(
    ("field", "value"), [("seconds", 0), ("seconds", float("inf")), ("memory_mb", 1), ("processes", 0), ("output_chars", "x")]
)
def test_limits_that_make_no_sense_are_refused(field, value):
    with pytest.raises(InputError, match=f"limits.{field}"):
        SandboxLimits(**{field: value})


def test_the_abilities_say_what_is_missing():
    able = sandbox_abilities()
    assert able.limits
    assert all(why for _, there, why in able.rows if not there)
    bare = SandboxAbilities(system="linux", missing={"namespaces": "refused"})
    assert not (bare.network_closed or bare.files_hidden or bare.signals_closed)


# Attacks


@pytest.mark.parametrize(
    ("code", "stopped"),
    [
        ("while True: pass", Stopped.TIME),
        ("import time\ntime.sleep(60)", Stopped.TIME),
        (
            IGNORING,
            Stopped.TIME,
        ),
        ("import threading\nthreading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()", Stopped.TIME),
        ("import atexit, time\natexit.register(time.sleep, 60)", Stopped.TIME),
        ("while True: print('x' * 10_000)", Stopped.OUTPUT),
        ("import sys\nwhile True: sys.stderr.write('x' * 10_000)", Stopped.OUTPUT),
    ],
)
async def test_what_does_not_end_is_ended(able, code, stopped):
    began = time.monotonic()
    result = await run_python(code, limits=QUICK)
    assert (result.stopped, result.exit_code, result.ok) == (stopped, None, False)
    assert time.monotonic() - began < 4


async def test_processor_time_is_limited_even_where_the_signal_is_ignored(able):
    limits = SandboxLimits(seconds=10, cpu_seconds=1)
    code = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    plain, ignoring = await asyncio.gather(run_python("while True: pass", limits=limits), run_python(code, limits=limits))
    assert plain.stopped is ignoring.stopped is Stopped.CPU


async def test_a_fork_bomb_does_no_harm(able):
    code = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    began = time.monotonic()
    result = await run_python(code, limits=QUICK)
    assert result.stopped in (Stopped.TIME, Stopped.PROCESSES, Stopped.MEMORY)
    assert time.monotonic() - began < 5
    assert (await run_python("print(1)")).stdout == "1\n"


async def test_the_number_of_processes_is_limited_by_the_kernel(able):
    need(able, "count_processes")
    code = """
import os, time
n = 0
try:
    while n < 99:
        if not os.fork(): time.sleep(9)
        n += 1
except OSError as e: print(n, type(e))
"""
    result = await run_python(code, limits=SandboxLimits(seconds=5, processes=6))
    assert result.stdout == "5 <class 'BlockingIOError'>\n"


async def test_a_thread_bomb_fails(able):
    code = """
import threading, time, os
try:
    while True: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
except RuntimeError: os._exit(7)
"""
    result = await run_python(code, limits=SandboxLimits(seconds=3))
    assert result.exit_code == 7 or result.stopped is Stopped.PROCESSES


async def test_memory_is_limited_for_one_process(able):
    result = await run_python("a = bytearray()\nwhile True: a += bytes(10_000_000)", limits=SandboxLimits(memory_mb=128))
    assert result.exit_code == 1 and result.stderr.endswith("MemoryError\n")


async def test_memory_is_limited_for_all_processes_together(able):
    if not able.leaves_nothing:
        pytest.skip("needs Linux: elsewhere nobody adds up the memory")
    code = "import os, time\nfor _ in range(5):\n    if not os.fork(): a = bytearray(b'x') * 80_000_000; time.sleep(60)\ntime.sleep(60)"
    result = await run_python(code, limits=SandboxLimits(memory_mb=128, seconds=20))
    assert result.stopped is Stopped.MEMORY
    assert result.seconds < 10


async def test_huge_output_is_cut_at_both_streams(able):
    limits = SandboxLimits(output_chars=1000)
    result = await run_python("import sys\nprint('a' + 'é' * 5000)\nprint('x' * 5000 + 'end', file=sys.stderr)", limits=limits)
    assert result.ok and result.truncated
    assert (len(result.stdout), len(result.stderr)) == (1000, 1000)
    assert result.stdout.startswith("aé") and result.stderr.endswith("xend\n")


async def test_a_huge_file_fails(able):
    result = await run_python("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20)); f.flush()", limits=SandboxLimits(file_mb=2))
    assert result.exit_code == 1 and "File too large" in result.stderr


async def test_many_files_are_too_much_where_the_folder_is_in_memory(able):
    need(able, "namespaces")
    code = (
        "n = 0\ntry:\n    while True:\n        open(str(n), 'wb').write(bytes(1 << 20)); n += 1\nexcept OSError as e: print(n, e.strerror)"
    )
    result = await run_python(code, limits=SandboxLimits(file_mb=2))
    assert result.stdout == "8 No space left on device\n"


async def test_files_outside_cannot_be_read_or_written(able, tmp_path):
    need(able, "files_hidden")
    tmp_path.chmod(0o777)
    secret = tmp_path / "secret.txt"
    secret.write_text("hidden")
    secret.chmod(0o666)
    code = f"""
import os
path = {str(secret)!r}
os.symlink(path, 'link')
os.symlink({str(tmp_path)!r}, 'folder')
def attempt(label, what):
    try: print(label, repr(what()))
    except OSError as e: print(label, 'refused')
attempt('read', lambda: open(path).read())
attempt('write', lambda: open(path, 'w').write('x'))
attempt('link', lambda: open('link').read())
attempt('link-write', lambda: open('link', 'a').write('x'))
attempt('folder', lambda: os.listdir('folder'))
attempt('new', lambda: open('folder/new', 'w').write('x'))
attempt('hard', lambda: open(os.link(path, 'hard') or 'hard').read())
attempt('remove', lambda: os.remove(path))
attempt('rights', lambda: os.chmod(path, 0))
attempt('up', lambda: open('../' * 20 + path[1:]).read())
attempt('passwd', lambda: open('/etc/passwd').read())
attempt('boot', lambda: open('/proc/self/root' + path).read())
"""
    result = await run_python(code)
    assert result.ok, result.stderr
    assert {line.split()[1] for line in result.stdout.splitlines()} == {"refused"}
    assert len(result.stdout.splitlines()) == 12
    assert secret.read_text() == "hidden"
    assert [path.name for path in tmp_path.iterdir()] == ["secret.txt"]
    assert secret.stat().st_mode & 0o777 == 0o666


async def test_the_environment_of_other_processes_cannot_be_read(able, monkeypatch):
    need(able, "files_hidden")
    code = (
        f"import os\nfor pid in [1, {os.getpid()}, os.getppid(), *range(2, 40)]:\n    for name in ('environ', 'mem', 'maps', 'cmdline'):\n"
        "        try: print(pid, open(f'/proc/{pid}/{name}', 'rb').read(100))\n        except OSError: pass\nprint('end')"
    )
    assert (await run_python(code)).stdout == "end\n"


async def test_processes_outside_cannot_be_reached_by_signals(able):
    need(able, "signals_closed")
    victim = await asyncio.create_subprocess_exec("sleep", "60")
    code = f"""
import os, signal
reached = []
for pid in ({victim.pid}, {os.getpid()}, os.getppid(), -1, 1):
    try: os.kill(pid, signal.SIGKILL if pid != {os.getpid()} else 0); reached.append(pid)
    except OSError: pass
print(reached)
"""
    try:
        result = await run_python(code)
        assert result.exit_code == 0, result
        assert victim.returncode is None
        if not able.namespaces:
            assert result.stdout == "[]\n"  # in a namespace a signal to its first process is let through and ignored
    finally:
        victim.kill()
        await victim.wait()


async def test_nothing_can_be_reached_by_sockets(able):
    need(able, "network_closed")
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    code = f"""
import socket
def attempt(what):
    try: return what() or 'open'
    except OSError: return 'refused'
print(attempt(lambda: socket.create_connection(('127.0.0.1', {port}), timeout=1)))
print(attempt(lambda: socket.getaddrinfo('example.com', 80)))
print(attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))))
print(attempt(lambda: socket.socket(socket.AF_UNIX).connect('/run/systemd/notify')))
print(attempt(lambda: socket.socket(socket.AF_UNIX).connect('\\0abstract')))
print(attempt(lambda: socket.socket(40, socket.SOCK_STREAM).connect((2, 1024))))
"""
    async with server:
        result = await run_python(code)
    assert result.stdout == "refused\n" * 6, result.stderr


async def test_asyncio_works_although_sockets_do_not(able):
    code = "import asyncio\nasync def main():\n    await asyncio.sleep(0.01)\n    print('done')\nasyncio.run(main())"
    assert (await run_python(code)).stdout == "done\n"


async def test_other_processes_cannot_be_looked_into(able):
    need(able, "seccomp")
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
number = {'x86_64': (101, 272, 165, 425, 321), 'aarch64': (117, 97, 40, 425, 280)}[os.uname().machine]
print([libc.syscall(ctypes.c_long(n), *map(ctypes.c_long, (16, 1, 0, 0))) for n in number])
print(libc.unshare(0x10000000), os.getuid() == 0 and os.path.exists('/root'))
"""
    result = await run_python(code)
    assert result.stdout.splitlines()[0] == "[-1, -1, -1, -1, -1]", result.stderr
    assert result.stdout.splitlines()[1].startswith("-1 ")


async def test_daemons_are_ended_with_the_program(able, mark):
    if not able.leaves_nothing:
        pytest.skip("needs Linux: elsewhere a process that left its group is not found")
    code = """
import os, signal, time
for n in range(1, 32):
    try: signal.signal(n, signal.SIG_IGN)
    except OSError: pass
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        time.sleep(60)
    os._exit(0)
time.sleep(0.1)
print('left')
"""
    began = time.monotonic()
    result = await run_python(code)
    assert result.ok and result.stdout == "left\n"
    assert time.monotonic() - began < 3
    assert still_there(mark) == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x = 1\0", "null bytes"),
        ("def f(: pass", "SyntaxError"),
        ("print('\ud800')", "surrogates not allowed"),
        ("def f(): f()\nf()", "RecursionError"),
        ("(" * 50_000, "Error"),
        ("x = " + "-" * 500_000 + "1", "Error"),
        ("a" * 2_000_000, "longer than"),
        ("raise SystemExit('words')", "words"),
        ("class E(Exception):\n    def __str__(self): raise ValueError\nraise E", "E: <exception str() failed>"),
    ],
)
async def test_odd_programs_fail_cleanly(able, code, words):
    result = await run_python(code)
    assert result.exit_code not in (0, None)
    assert words in result.stderr or (result.exit_code < 0 and words == "Error")


async def test_recursion_without_a_limit_ends(able):
    code = "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return [0].sort(key=lambda _: f())\nf()"
    result = await run_python(code, limits=SandboxLimits(seconds=3))
    assert not result.ok


async def test_output_that_is_no_text_is_shown_as_far_as_it_goes(able):
    result = await run_python("import os\nos.write(1, b'\\xff\\xfe ok \\x00 \\xc3')")
    assert result.stdout == "\ufffd\ufffd ok \0 \ufffd"


async def test_ending_in_odd_ways(able):
    assert (await run_python("import os\nos._exit(0)")).exit_code == 0
    assert (await run_python("import os\nos._exit(9)")).exit_code == 9
    assert (await run_python("import os\nos.abort()")).exit_code == -6
    assert (await run_python("import sys\nsys.stdout.close(); sys.stderr.close()")).exit_code == 0
    assert (await run_python("import os\nfor n in range(64):\n    try: os.close(n)\n    except OSError: pass")).exit_code == 0


async def test_frames_and_garbage_hold_nothing_of_the_caller(able, monkeypatch):
    monkeypatch.setenv("SECRET", secret := "unguessable-" + uuid4().hex)
    code = """
import gc, sys
frame, seen = sys._getframe(), []
while frame:
    seen += [repr(frame.f_locals), repr(frame.f_globals)]
    frame = frame.f_back
seen += [repr(found)[:10_000] for found in gc.get_objects() if isinstance(found, (str, bytes, dict, list, tuple))]
print(any('unguess' + 'able-' in text for text in seen if 'gc.get_objects' not in text))
print([m for m in sys.modules if 'pydantic' in m or 'asyncio' in m])
"""
    assert (await run_python(code)).stdout == "False\n[]\n", secret


# The parts


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner) | st.frozensets(st.integers())
    ),
    max_leaves=20,
)


@given(plain)
@settings(max_examples=100, deadline=None)
def test_plain_data_comes_back_as_it_was(value):
    back = wire.decode(wire.encode(value))
    assert back == value
    assert repr(back) == repr(value) or isinstance(value, dict | list | tuple | frozenset)
    assert type(back) is type(value)


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_bytes_do_harm(data):
    with suppress(wire.WireError):
        wire.decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"l999999999:",
        b"d1:l0:N",
        b"e1:l0:",
        b"i3:zzz",
        b"s5:ab",
        b"f3:abc",
        b"q1:a",
        b"s-1:",
        b"l1:" * 200 + b"N",
        b"i99999999999999999999999:",
    ],
)
def test_broken_messages_are_refused(data):
    with pytest.raises(wire.WireError):
        wire.decode(data)


def test_what_is_no_plain_data_is_not_sent():
    for value in (object(), len, [print], {1: range(3)}, type):
        with pytest.raises(wire.WireError, match="of type"):
            wire.encode(value)
    loop: list = []
    loop.append(loop)
    with pytest.raises(wire.WireError, match="nested"):
        wire.encode(loop)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_of_system_calls_decides_as_it_says(machine):
    """The filter, interpreted here: sockets and foreign signals refused, files and its own signals allowed."""
    numbers = {
        "x86_64": {"read": 0, "socket": 41, "kill": 62, "clone": 56},
        "aarch64": {"read": 63, "socket": 198, "kill": 129, "clone": 220},
    }[machine]
    allow, refuse = 0x7FFF0000, 0x00050001
    architecture = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]

    def verdict(number: int, argument: int = 0, arch: int = architecture, shared: bool = True) -> int:
        program, at, value = seccomp.program(machine, shared, pid=77), 0, 0
        while True:
            operation, yes, no, operand = program[at]
            at += 1
            if operation == 0x06:
                return operand
            if operation == 0x20:
                value = {0: number, 4: arch, 16: argument}[operand]
            else:
                holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[operation]
                at += yes if holds else no

    assert verdict(numbers["read"]) == allow
    assert verdict(numbers["socket"]) == refuse
    assert verdict(numbers["read"], arch=0x40000003) == 0x80000000
    assert [verdict(numbers["kill"], pid) for pid in (77, 0, 78, 0xFFFFFFFF)] == [allow, allow, refuse, refuse]
    assert verdict(numbers["kill"], 78, shared=False) == allow
    assert [verdict(numbers["clone"], flags) for flags in (17, 0x10000000, 0x00020011)] == [allow, refuse, refuse]
    assert verdict(435) == 0x00050026


async def test_a_machine_that_allows_nothing_says_so(monkeypatch):
    monkeypatch.setattr(process, "COMMAND", ("/nowhere/python",))
    able = SandboxAbilities(system="linux", missing={})
    assert "No such file" in (abilities_module._problem(able) or "")
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-c", "print('nonsense')"))
    with pytest.raises(process.SandboxFailed, match="without an answer"):
        await (await process.start({"mode": "code", "code": ""}, QUICK, able)).result()
    assert run.LONGEST_CODE == 1_000_000


def test_the_example_of_the_docs(capsys):
    page = (Path(__file__).parent.parent / "docs" / "sandbox.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "sandbox.md", "exec"), {})  # noqa: S102 -- our own example
    assert capsys.readouterr().out == (
        "True 45\n\nFalse an assertion does not hold, line 2 of the tests: `assert double('ab') == 'aba'`; "
        "the last call: double('ab') returned 'abab'\n"
    )

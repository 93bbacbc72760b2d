"""Testing code that does not want to be tested: nothing that it does makes a test pass that does not hold."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

from test_sandbox import WEAKER, weakened
from tutelage.sandbox import Outcome, SandboxLimits, Stopped, run, run_tests
from tutelage.sandbox.inside import testing

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the sandbox needs Linux or macOS")

QUICK = SandboxLimits(seconds=1.0)
TESTS = "assert f(2) == 1234567 * 2\nassert f(3) == 1234567 * 3\n"


@pytest.fixture(params=["all", "landlock", "seccomp"])
def able(request, monkeypatch):
    chosen = weakened(request.param)
    monkeypatch.setattr(run, "sandbox_abilities", lambda: chosen)
    return chosen


# What holds


@pytest.mark.parametrize("name", WEAKER)
async def test_right_code_passes_and_wrong_code_does_not(name, monkeypatch):
    chosen = weakened(name)
    monkeypatch.setattr(run, "sandbox_abilities", lambda: chosen)
    right = await run_tests("def f(x): return 1234567 * x", TESTS)
    assert (right.passed, right.outcome, right.calls, right.words) == (True, Outcome.PASSED, 2, "every test holds")
    wrong = await run_tests("def f(x): return 2469134", TESTS)
    assert (wrong.passed, wrong.outcome, wrong.line, wrong.calls) == (False, Outcome.ASSERTION, 2, 2)
    assert wrong.statement == "assert f(3) == 1234567 * 3"
    assert wrong.words == (
        "an assertion does not hold, line 2 of the tests: `assert f(3) == 1234567 * 3`; the last call: f(3) returned 2469134"
    )


VALUES = """[
    None, True, 1, -2**70, 1.5, float('inf'), 1e-320, 2j, '', 'é\\0\\ud800', b'\\xff',
    [], (), {}, set(), frozenset({1}), {1: [(2, {3})], 'a': {}},
]"""


async def test_every_kind_of_plain_data_goes_there_and_back():
    tests = f"""
for value in {VALUES}:
    assert f(value) == value and type(f(value)) is type(value), value
assert str(f(float('nan'))) == 'nan'
"""
    result = await run_tests("def f(x): return x", tests)
    assert result.passed, result.words


async def test_what_the_code_changes_in_its_arguments_is_seen():
    code = """
def f(items, *, more):
    items.sort()
    items[0][1].append('x')
    more['new'] = 1
    more['old'].add(3)
    more.pop('gone')
    return items
"""
    tests = (
        "inner = ['b']\nitems = [('z', []), ('a', inner)]\nold = {1}\nmore = {'old': old, 'gone': 0}\n"
        "assert f(items, more=more) == items\nassert items == [('a', ['b', 'x']), ('z', [])], items\n"
        "assert more == {'old': {1, 3}, 'new': 1}\nassert old == {1, 3}"
    )
    result = await run_tests(code, tests)
    assert result.passed, result.words


async def test_exceptions_arrive_by_their_kind():
    code = (
        "class Own(ValueError): pass\nclass Odd(BaseException): pass\n"
        "def f(kind): raise {'own': Own('words'), 'key': KeyError('k'), 'exit': SystemExit(0), 'odd': Odd(), "
        "'unicode': UnicodeDecodeError('utf8', b'x', 0, 1, 'bad')}[kind]"
    )
    tests = """
def kind_of(name):
    try: f(name)
    except Exception as error: return [kind.__name__ for kind in type(error).__mro__]
assert kind_of('own')[:2] == ['Own', 'ValueError']
assert kind_of('key')[0] == 'KeyError'
assert kind_of('exit')[0] == 'SystemExit' and 'Exception' in kind_of('exit')
assert kind_of('odd')[0] == 'Odd'
assert 'ValueError' in kind_of('unicode')
"""
    result = await run_tests(code, tests)
    assert result.passed, result.words
    uncaught = await run_tests("def f(x): raise ValueError('no ' + str(x))", TESTS)
    assert uncaught.outcome is Outcome.RAISED
    assert uncaught.words == "f(2) raised ValueError: no 2; line 1 of the tests: `assert f(2) == 1234567 * 2`"


async def test_several_functions_helpers_of_the_tests_and_names_of_python():
    code = "def sorted(x): return x[::-1]\ndef g(x): return f(x) + 1\ndef f(x): return x * 2\ndef len(x): return 7"
    assert (await run_tests(code, "assert g(f(1)) == 5\nassert len([1]) == 1\nassert sorted([2, 1]) == [1, 2]")).passed
    assert (await run_tests(code, "assert sorted([1, 3, 2]) == [2, 3, 1]", entry="sorted")).passed
    missing = await run_tests(code, "assert h(1) == 5")
    assert (missing.outcome, missing.passed) == (Outcome.ERROR, False)
    assert "name 'h' is not defined" in missing.words
    assert (await run_tests("x = 1", "assert f(1) == 5", entry="f")).words.startswith("the code defines no function `f`")


async def test_the_shapes_of_tests():
    humaneval = "def check(candidate):\n    assert candidate(2) == 4\n"
    assert (await run_tests("def f(x): return x * x", humaneval, entry="f")).passed
    assert not (await run_tests("def f(x): return x", humaneval, entry="f")).passed
    assert (await run_tests("def f(x): return x * x", humaneval + "check(f)", entry="f")).calls == 1
    functions = "def test_one():\n    assert f(2) == 4\n\ndef test_two():\n    assert f(3) == 10\n"
    assert (await run_tests("def f(x): return x * x", functions)).line == 5
    empty = await run_tests("def f(x): return x", "def helper(): assert f(1) == 2")
    assert (empty.outcome, empty.words) == (Outcome.NO_CALL, "the tests ended without calling the code")
    assert (await run_tests("def f(x): return x", "assert f(1) ==")).outcome is Outcome.TESTS
    assert (await run_tests("def f(x): return x", "assert f(1) == 1\nimport sys; sys.exit(0)")).outcome is Outcome.TESTS
    assert (await run_tests("def f(x): return x", "f(1)\nimport os; os._exit(0)")).outcome is not Outcome.PASSED


async def test_the_main_part_of_a_program_is_not_run():
    code = "def f(x): return 1234567 * x\nif __name__ == '__main__':\n    input()\n    raise SystemExit"
    assert (await run_tests(code, TESTS)).passed


# What does not


HUNT = """
import gc, sys
def f(x):
    frame, places = sys._getframe(), gc.get_objects()
    while frame:
        places += [frame.f_globals, frame.f_locals]
        frame = frame.f_back
    needle = ''.join(['assert', ' f', '('])  # nothing of the code itself is to be found
    for place in places:
        inside = list(place.values()) if isinstance(place, dict) else place if isinstance(place, (list, tuple)) else []
        for value in [*inside]:
            text = value.decode('latin-1') if isinstance(value, bytes) else value
            if isinstance(text, str) and needle in text and text != needle: return 1234567 * x
    return 0
"""
EQUAL = """
class All(KIND):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def f(x): return All()
"""
THROUGH_PROC = """
import os
def f(x):
    for pid in os.listdir('/proc') if os.path.isdir('/proc') else []:
        if not pid.isdigit() or int(pid) == os.getpid(): continue
        try:
            if b'boot.py' not in open(f'/proc/{pid}/cmdline', 'rb').read(): continue
        except OSError: continue
        try: WHAT
        except OSError: pass
    return 0
"""
FORGED = "{'outcome': 'passed', 'calls': 2, 'line': None, 'words': '', 'call': ''}"
KILL = """
import os, signal
for pid in PIDS:
    try: pid == os.getpid() or os.kill(pid, signal.SIGKILL)
    except OSError: pass
def f(x): return 0
"""
FORGERIES = {
    "exits": "import sys\nsys.exit(0)",
    "exits at once": "import os\nos._exit(0)",
    "exits when called": "import os\ndef f(x): os._exit(0)",
    "raises exit": "def f(x): raise SystemExit(0)",
    "exits at the end": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): raise KeyboardInterrupt",
    "says so": f"print('passed')\ndef f(x): print({FORGED})",
    "an object that equals everything": EQUAL.replace("KIND", "object"),
    "a number that equals everything": EQUAL.replace("KIND", "int"),
    "a list that equals everything": EQUAL.replace("KIND", "list"),
    "a text that equals everything": EQUAL.replace("KIND", "str"),
    "is a mock": "from unittest.mock import ANY\ndef f(x): return ANY",
    "patches builtins": """
import builtins
for name in ('AssertionError', 'isinstance', 'len', 'type', 'repr', 'int', 'callable'):
    setattr(builtins, name, lambda *a, **k: True)
def f(x): return 0
""",
    "patches AssertionError": """
import builtins, os
class Never(Exception):
    def __new__(cls, *a): os._exit(0)
builtins.AssertionError = Never
def f(x): return 0
""",
    "patches unittest": """
import unittest
unittest.TestCase.assertEqual = unittest.main = lambda *a, **k: None
def f(x): return 0
""",
    "hunts for the tests in memory": HUNT,
    "reports for the tests": f"""
import os
from tutelage.sandbox.inside import testing, wire
testing._report({FORGED})
def f(x):
    for n in range(64):
        try: os.pwrite(n, wire.encode({FORGED}), 0)
        except OSError: pass
        try: os.write(n, wire.encode({FORGED}))
        except OSError: pass
    os._exit(0)
""",
    "answers too early": """
from tutelage.sandbox.inside import exchange
exchange.send(4, {'ready': True})
exchange.send(4, {'value': 0})
def f(x): return 0
""",
    "answers no dictionary": "from tutelage.sandbox.inside import exchange\ndef f(x): exchange.send(4, [1]); return 0",
    "answers without end": "import os\ndef f(x):\n    os.write(4, b'007fffff')\n    while True: os.write(4, b'l1:' * 10000)",
    "answers deeply": "import os\ndef f(x):\n    data = b'l1:' * 100000 + b'N'\n    os.write(4, b'%08x' % len(data) + data)",
    "answers a wrong length": "import os\ndef f(x): os.write(4, b'ffffffff' * 10)",
    "answers with a list as key": "import os\ndef f(x):\n    data = b'd1:l0:N'\n    os.write(4, b'%08x' % len(data) + data)",
    "answers no value": "from tutelage.sandbox.inside import exchange\ndef f(x): exchange.send(4, {'args': [[1]]}); return 0",
    "raises what the tests raise": "def f(x): raise AssertionError('passed')",
    "replaces the server": """
from tutelage.sandbox.inside import candidate
candidate._answer = lambda names, request: {'value': True, 'passed': True, 'args': [[1234567]]}
def f(x): return 0
""",
    "kills its parent": KILL.replace("PIDS", "(os.getppid(), 1, -1, 0)"),
    "kills all others": KILL.replace("PIDS", "range(2, 40_000)"),
    "reads the tests' input": THROUGH_PROC.replace("WHAT", "return 1234567 * x if open(f'/proc/{pid}/fd/0', 'rb').read() else 0"),
    "opens the tests' memory": THROUGH_PROC.replace("WHAT", "return 1234567 * x if open(f'/proc/{pid}/mem', 'r+b', buffering=0) else 0"),
    "opens the tests' report": THROUGH_PROC.replace("WHAT", "return 1234567 * x if open(f'/proc/{pid}/fd/5', 'r+b', buffering=0) else 0"),
}


@pytest.mark.parametrize("name", ["an object that equals everything", "hunts for the tests in memory", "a list that equals everything"])
def test_the_forgeries_do_pass_where_tests_and_code_share_a_process(name):
    """A control: an attack that never works proves nothing."""
    names = {"tests": [TESTS]}
    exec(FORGERIES[name], names)  # noqa: S102 -- harmless outside of the sandbox too
    exec(TESTS, names)  # noqa: S102 -- as above


@pytest.mark.parametrize("name", FORGERIES)
async def test_forgeries_fail(able, name):
    began = time.monotonic()
    result = await run_tests(FORGERIES[name], TESTS, entry="f", limits=QUICK)
    assert not result.passed, result
    assert result.words
    assert time.monotonic() - began < 15


async def test_an_object_that_equals_everything_is_never_compared():
    result = await run_tests(FORGERIES["an object that equals everything"], TESTS)
    assert result.outcome is Outcome.REFUSED
    assert "a value of type `All`" in result.words
    lazy = await run_tests("def f(x): return (n for n in [1])", "assert list(f(2)) == [1]")
    assert lazy.outcome is Outcome.REFUSED


async def test_tests_that_catch_everything_cannot_pass_over_a_dead_process():
    tests = "try:\n    f(1)\nexcept BaseException:\n    pass\ntry:\n    f(1)\nexcept:\n    pass\n"
    result = await run_tests("import os\ndef f(x): os._exit(0)", tests)
    assert result.outcome is Outcome.ENDED
    assert "exit code 0" in result.words
    refused = await run_tests("def f(x): return f", tests)
    assert refused.outcome is Outcome.REFUSED


async def test_a_limit_says_which_and_where(able):
    endless = await run_tests("def f(x):\n    while x > 2: pass\n    return 1234567 * x", TESTS, limits=QUICK)
    assert (endless.outcome, endless.stopped, endless.line) == (Outcome.STOPPED, Stopped.TIME, 2)
    assert endless.words == "stopped after 1 s; line 2 of the tests: `assert f(3) == 1234567 * 3`, calling f(3)"
    greedy = await run_tests("def f(x): return len(bytearray(10**10))", TESTS, limits=QUICK)
    assert (greedy.outcome, greedy.call) == (Outcome.RAISED, "f(2) raised MemoryError")
    loud = await run_tests("def f(x):\n    while True: print('x' * 10000)", TESTS, limits=QUICK)
    assert (loud.outcome, loud.stopped) == (Outcome.STOPPED, Stopped.OUTPUT)
    before = await run_tests("while True: pass", TESTS, limits=QUICK)
    assert (before.outcome, before.line, before.calls) == (Outcome.STOPPED, None, 0)


async def test_code_that_does_not_load_says_why():
    syntax = await run_tests("def f(x:\n  pass", TESTS)
    assert syntax.outcome is Outcome.CODE
    assert syntax.words == "the code does not load: SyntaxError: '(' was never closed (line 1 of the code)"
    raised = await run_tests("import nothing_like_this", TESTS)
    assert raised.words == "the code does not load: ModuleNotFoundError: No module named 'nothing_like_this' (line 1 of the code)"
    assert (await run_tests("x = 1\0", TESTS)).outcome is Outcome.CODE
    assert (await run_tests("x" * 2_000_000, TESTS)).outcome is Outcome.CODE


async def test_cancelling_tests_ends_both_processes():
    running = asyncio.create_task(run_tests("def f(x):\n    while True: pass", TESTS, limits=SandboxLimits(seconds=60)))
    await asyncio.sleep(0.3)
    running.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert time.monotonic() - began < 3


async def test_many_tests_at_once():
    results = await asyncio.gather(*(run_tests(f"def f(x): return x + {n % 2}", "assert f(1) == 2") for n in range(12)))
    assert [result.passed for result in results] == [False, True] * 6


def test_lists_change_in_place_and_keep_what_stayed_the_same():
    inner, other = [1], {2}
    mine = [inner, other, "x", (inner,)]
    testing._reflect([mine], [[[1, 5], {3}, "y", ([1, 5],), "more"]], top=True)
    assert mine == [[1, 5], {3}, "y", ([1, 5],), "more"]
    assert mine[0] is inner and mine[1] is other and mine[3][0] is inner
    testing._reflect([mine], ["something else"], top=True)
    assert len(mine) == 5

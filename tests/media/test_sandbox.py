import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest

from mmray.errors import MediaError
from mmray.media.sandbox import Sandbox


@pytest.fixture
def sandbox():
    with Sandbox(timeout_s=30) as sandbox:
        yield sandbox


def test_calls_run_in_one_other_process(sandbox):
    first = sandbox.call(os.getpid)
    assert first != os.getpid()
    assert sandbox.call(os.getpid) == first
    assert sandbox.call(divmod, 7, 2) == (3, 1)
    assert sandbox.call(np.zeros, (2, 3), "uint8").shape == (2, 3)


def test_the_child_imports_nothing_heavy(sandbox):
    modules = "sorted({'ray', 'torch', 'pyarrow', 'pytest'} & set(__import__('sys').modules))"
    assert sandbox.call(eval, modules) == []


def test_media_errors_come_back_whole(sandbox, tmp_path):
    from mmray.media.probe import probe

    pid = sandbox.call(os.getpid)
    with pytest.raises(MediaError) as error:
        sandbox.call(probe, str(tmp_path / "none.mp4"))
    assert (error.value.stage, error.value.uri) == ("open", str(tmp_path / "none.mp4"))
    assert "No such file" in error.value.reason
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(b"garbage" * 100)
    with pytest.raises(MediaError) as error:
        sandbox.call(probe, str(garbage))
    assert error.value.cause == "InvalidDataError"
    assert sandbox.call(os.getpid) == pid


def test_other_errors_come_back_with_the_trace_of_the_child(sandbox):
    pid = sandbox.call(os.getpid)
    with pytest.raises(ZeroDivisionError) as error:
        sandbox.call(divmod, 1, 0)
    assert "child process" in error.value.__notes__[0]
    with pytest.raises(RuntimeError, match="UnicodeDecodeError"):
        sandbox.call(eval, "(_ for _ in ()).throw(type('UnicodeDecodeError', (Exception,), {})())")
    with pytest.raises(Exception, match="pickle"):
        sandbox.call(eval, "lambda: 0")
    assert sandbox.call(os.getpid) == pid


def test_a_hang_ends_after_the_time_limit_and_the_next_call_works(sandbox):
    sandbox.timeout_s = 0.5
    child = sandbox.call(os.getpid)
    start = time.monotonic()
    with pytest.raises(MediaError, match=r"decoder took longer than 0\.5 s") as error:
        sandbox.call(time.sleep, 60, stage="frames")
    assert time.monotonic() - start < 10
    assert error.value.stage == "frames"
    assert not psutil.pid_exists(child)
    assert sandbox.call(os.getpid) != child


@pytest.mark.parametrize(
    ("function", "argument", "how"),
    [
        (signal.raise_signal, signal.SIGSEGV, r"signal 11"),
        (signal.raise_signal, signal.SIGKILL, r"signal 9"),
        (os._exit, 3, r"exit code 3"),
    ],
)
def test_a_crash_is_named_and_the_next_call_works(sandbox, function, argument, how):
    with pytest.raises(MediaError, match=rf"decoder crashed \({how}\)") as error:
        sandbox.call(function, argument)
    assert error.value.stage == "open"
    assert sandbox.call(divmod, 7, 2) == (3, 1)


def test_a_child_that_died_between_calls_is_one_error_only(sandbox):
    os.kill(sandbox.call(os.getpid), signal.SIGKILL)
    with pytest.raises(MediaError, match="signal 9"):
        sandbox.call(os.getpid)
    assert sandbox.call(divmod, 7, 2) == (3, 1)


def test_a_child_that_cannot_start_is_no_fault_of_the_media(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Sandbox() as sandbox, pytest.raises(RuntimeError, match=r"cannot start \(exit code 1\)"):
        sandbox.call(os.getpid)


def test_a_fresh_child_takes_over_after_max_calls():
    with Sandbox(max_calls=2) as sandbox:
        pids = [sandbox.call(os.getpid) for _ in range(6)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4] == pids[5]


def test_closing_ends_the_child():
    sandbox = Sandbox()
    child = sandbox.call(os.getpid)
    sandbox.close()
    assert not psutil.pid_exists(child)
    sandbox.close()
    other = sandbox.call(os.getpid)
    del sandbox
    assert not psutil.pid_exists(other)


def test_an_interrupted_call_leaves_no_old_answer_behind(sandbox, monkeypatch):
    sandbox.call(divmod, 7, 2)
    poll, calls = sandbox._pipe.poll, []

    def interrupt(timeout):
        calls.append(timeout)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return poll(timeout)

    monkeypatch.setattr(type(sandbox._pipe), "poll", lambda self, timeout: interrupt(timeout))
    with pytest.raises(KeyboardInterrupt):
        sandbox.call(divmod, 9, 2)
    monkeypatch.undo()
    assert sandbox.call(divmod, 7, 3) == (2, 1)


def test_threads_take_turns(sandbox):
    results = {}

    def work(number):
        results[number] = [sandbox.call(divmod, number * 10 + i, 7) for i in range(20)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [divmod(n * 10 + i, 7) for i in range(20)] for n in range(4)}


def test_the_child_outlives_the_thread_that_started_it(sandbox):
    pids = []
    thread = threading.Thread(target=lambda: pids.append(sandbox.call(os.getpid)))
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert sandbox.call(os.getpid) == pids[0]


PARENT = """
import os, sys, time
from mmray.media.sandbox import Sandbox
sandbox = Sandbox()
print(sandbox.call(os.getpid), flush=True)
if sys.argv[1] == "busy":
    sandbox.call(time.sleep, 600)
time.sleep(600)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_the_child_ends_when_the_parent_is_killed(state):
    command = [sys.executable, "-c", PARENT, state]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.3)
        parent.kill()
        parent.wait()
        try:
            child.wait(10)
        except psutil.TimeoutExpired:
            # Where nobody collects orphans a dead one stays on as a zombie.
            assert child.status() == psutil.STATUS_ZOMBIE


def test_a_large_result_comes_back_fast(sandbox):
    sandbox.call(np.zeros, 1_500_000, np.uint8)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        sandbox.call(np.zeros, 1_500_000, np.uint8)
        times.append(time.perf_counter() - start)
    # 1.5 ms on an idle machine; the minimum, since tests share theirs.
    assert min(times) < 0.02


@pytest.mark.parametrize("options", [{"timeout_s": 0}, {"max_calls": 0}])
def test_limits_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="above 0"):
        Sandbox(**options)


@pytest.mark.cluster
def test_inside_an_actor_the_child_starts_fast_and_without_ray(ray_cluster):
    import ray

    @ray.remote(num_cpus=0)
    class Actor:
        def __init__(self):
            self.sandbox = Sandbox(timeout_s=30)

        def start(self):
            start = time.monotonic()
            child = self.sandbox.call(os.getpid)
            modules = self.sandbox.call(eval, "'ray' in __import__('sys').modules")
            return os.getpid(), child, modules, time.monotonic() - start

    actor = Actor.remote()
    parent, child, has_ray, seconds = ray.get(actor.start.remote())
    assert parent != child
    assert not has_ray
    assert seconds < 10
    os.kill(parent, signal.SIGKILL)
    process = psutil.Process(child) if psutil.pid_exists(child) else None
    if process is not None:
        process.wait(10)

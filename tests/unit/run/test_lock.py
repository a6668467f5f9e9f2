import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from pipelines import storage
from pipelines.errors import OutputTakenError
from pipelines.run import lock
from pipelines.run.lock import Owner, ownership
from tests.support.commands import ROOT


def write(run, **changes):
    pid, now = os.getpid(), time.time()
    start, table = lock._process_start(pid), lock._process_table()
    values = Owner("0" * 32, socket.gethostname(), pid, start, now, now, table)._asdict()
    if "host" in changes:
        values["process_table"] = "of another host"
    storage.write_json(f"{run}/owner.json", values | changes)


def test_a_run_is_owned_as_long_as_its_driver_lives(tmp_path):
    with ownership(str(tmp_path)):
        found = lock.current_owner(str(tmp_path))
        assert found is not None and found.pid == os.getpid()
    assert lock.current_owner(str(tmp_path)) is None and not list(tmp_path.iterdir())


def test_a_second_live_driver_is_refused_with_the_first_ones_identity(tmp_path):
    with (
        ownership(str(tmp_path)),
        pytest.raises(OutputTakenError, match=f"process {os.getpid()} on {socket.gethostname()}"),
        ownership(str(tmp_path)),
    ):
        pass


def test_a_dead_driver_is_succeeded_at_once_on_its_own_machine_and_after_a_while_elsewhere(tmp_path, monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    write(tmp_path, pid=process.pid, process_start="1")
    with ownership(str(tmp_path)):
        pass
    monkeypatch.setattr(lock, "TAKEOVER_SECONDS", 0.2)
    write(tmp_path, host="elsewhere", heartbeat=time.time() + 1000)
    with ownership(str(tmp_path)):
        pass


OWNS = """
import sys, time
from pipelines.run import lock
lock.HEARTBEAT_SECONDS = 0.1
with lock.ownership(sys.argv[1]):
    print("owns", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_containers_with_one_host_name_do_not_own_one_run_at_the_same_time(tmp_path, monkeypatch):
    """The first owner is process 1 or so of a PID namespace of its own; here another process has that number."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", OWNS, str(tmp_path)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert other.stdin is not None and other.stdout is not None
    try:
        assert other.stdout.readline() == b"owns\n"
        monkeypatch.setattr(lock, "TAKEOVER_SECONDS", 5.0)
        with pytest.raises(OutputTakenError, match=f"on {socket.gethostname()}"), ownership(str(tmp_path)):
            pass
    finally:
        other.stdin.close()
        assert other.wait(60) == 0
    with ownership(str(tmp_path)):
        pass


def test_a_record_of_an_earlier_release_is_judged_by_its_heartbeat(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "TAKEOVER_SECONDS", 0.2)
    write(tmp_path, process_table="")
    with ownership(str(tmp_path)):
        pass


def test_a_process_number_that_is_used_again_is_another_process(tmp_path):
    write(tmp_path, process_start="1")
    with ownership(str(tmp_path)):
        pass


def test_a_damaged_record_is_written_anew(tmp_path):
    (tmp_path / "owner.json").write_text('{"id":')
    with ownership(str(tmp_path)):
        assert lock.current_owner(str(tmp_path)) is not None


def test_the_owner_gives_heartbeats(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    with ownership(str(tmp_path)):
        first = lock.last_heartbeat(str(tmp_path))
        deadline = time.monotonic() + 20
        while lock.last_heartbeat(str(tmp_path)) == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_killed_driver_that_nobody_has_buried_is_dead(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write(tmp_path, pid=process.pid, process_start=lock._process_start(process.pid))
    assert lock.current_owner(str(tmp_path)) is not None
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert lock.current_owner(str(tmp_path)) is None
    process.communicate()


def test_a_driver_elsewhere_whose_clock_is_wrong_is_alive_while_its_record_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "TAKEOVER_SECONDS", 6.0)
    write(tmp_path, host="elsewhere", heartbeat=0.0)
    beats = threading.Timer(0.3, write, (tmp_path,), {"host": "elsewhere", "heartbeat": 1.0})
    beats.start()
    with pytest.raises(OutputTakenError, match="on elsewhere"), ownership(str(tmp_path)):
        pass
    beats.join()


def test_of_many_drivers_that_start_at_once_one_owns_the_run(tmp_path):
    together, owners, refused = threading.Barrier(8), [], []
    ended = threading.Barrier(8)

    def drive():
        together.wait()
        try:
            with ownership(str(tmp_path)):
                owners.append(1)
                ended.wait()
        except OutputTakenError:
            refused.append(1)
            ended.wait()

    threads = [threading.Thread(target=drive) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(owners), len(refused)) == (1, 7) and not list(tmp_path.iterdir())


def test_an_owner_that_was_replaced_leaves_the_record_of_the_other(tmp_path):
    with ownership(str(tmp_path)):
        write(tmp_path, id="f" * 32)
    assert storage.read_json(f"{tmp_path}/owner.json")["id"] == "f" * 32


def test_a_driver_elsewhere_is_shown_by_its_beats_whatever_its_clock_says(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "STATUS_WAIT_SECONDS", 6.0)
    write(tmp_path, host="elsewhere", heartbeat=0.0)
    beats = threading.Timer(0.3, write, (tmp_path,), {"host": "elsewhere", "heartbeat": 1.0})
    beats.start()
    found = lock.current_owner(str(tmp_path))
    assert found is not None and found.host == "elsewhere"
    beats.join()
    monkeypatch.setattr(lock, "STATUS_WAIT_SECONDS", 0.2)
    write(tmp_path, host="elsewhere", heartbeat=time.time() + 1000)
    assert lock.current_owner(str(tmp_path)) is None


def succeed(folder):
    """What a driver on another machine does that takes the owner for dead."""
    owner = storage.read_json(f"{folder}/owner.json")
    record = json.dumps(owner | {"id": "f" * 32, "host": "elsewhere"}).encode()
    assert storage.create_bytes(f"{folder}/owner-after-{owner['id']}.json", record)


@pytest.mark.parametrize("write_interrupted", [False, True])
def test_the_record_of_a_succession_decides_whatever_owner_json_says(tmp_path, monkeypatch, write_interrupted):
    monkeypatch.setattr(lock, "STATUS_WAIT_SECONDS", 0.0)
    with ownership(str(tmp_path)):
        mine = storage.read_json(f"{tmp_path}/owner.json")
        succeed(tmp_path)
        if not write_interrupted:
            storage.write_json(f"{tmp_path}/owner.json", mine | {"id": "f" * 32, "host": "elsewhere"})
            storage.write_json(f"{tmp_path}/owner.json", mine)  # a slow heartbeat of the former owner
        assert lock._effective_owner(str(tmp_path)).host == "elsewhere"
    assert lock._effective_owner(str(tmp_path)).host == "elsewhere", "the former owner deletes nothing"


def test_of_many_drivers_that_succeed_a_dead_one_at_once_one_owns_the_run(tmp_path):
    """All have seen the dead one before any of them writes."""
    write(tmp_path, process_start="1")
    dead, seen = lock._is_dead, threading.Barrier(8)

    def look(out, other, seconds):
        seen.wait()
        return dead(out, other, seconds)

    owners, refused, ended = [], [], threading.Barrier(8)

    def drive():
        try:
            with ownership(str(tmp_path)):
                owners.append(storage.read_json(f"{tmp_path}/owner.json")["id"])
                ended.wait()
        except OutputTakenError:
            refused.append(1)
            ended.wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock, "_is_dead", look)
        threads = [threading.Thread(target=drive) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(owners), len(refused)) == (1, 7) and not list(tmp_path.iterdir())


def test_a_successor_that_died_before_it_wrote_its_name_is_succeeded(tmp_path):
    write(tmp_path, process_start="1")
    storage.write_json(
        f"{tmp_path}/owner-after-{'0' * 32}.json",
        storage.read_json(f"{tmp_path}/owner.json") | {"id": "1" * 32, "process_start": "2"},
    )
    with ownership(str(tmp_path)):
        assert lock.current_owner(str(tmp_path)).pid == os.getpid()
    assert not list(tmp_path.iterdir())


DRIVER = """
import sys, time
from pipelines.run import lock
lock.HEARTBEAT_SECONDS = 0.05
with lock.ownership(sys.argv[1]):
    print("owned", flush=True)
    try:
        time.sleep(100)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise
"""


@pytest.mark.parametrize("handler", ["default", "ignored"])
def test_a_driver_whose_run_was_taken_over_ends_whatever_its_signal_handlers(tmp_path, handler):
    """A shell ignores SIGINT in what it starts with `&`, and so do nohup and many schedulers."""
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    if handler == "ignored":
        command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command]
    before = None if handler == "ignored" else lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=before)
    assert process.stdout.readline() == "owned\n"
    succeed(tmp_path)
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and (out == "interrupted\n") == (handler == "default")
    assert lock._effective_owner(str(tmp_path)).host == "elsewhere"

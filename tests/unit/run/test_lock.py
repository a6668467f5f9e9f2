import os
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


def write(run, **changes):
    values = Owner("x", socket.gethostname(), os.getpid(), lock._born(os.getpid()), time.time(), time.time())._asdict()
    storage.write_json(f"{run}/owner.json", values | changes)


def test_a_run_is_owned_as_long_as_its_driver_lives(tmp_path):
    with ownership(str(tmp_path)):
        found = lock.current(str(tmp_path))
        assert found is not None and found.pid == os.getpid()
    assert lock.current(str(tmp_path)) is None and not list(tmp_path.iterdir())


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
    write(tmp_path, pid=process.pid, born="1")
    with ownership(str(tmp_path)):
        pass
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.2)
    write(tmp_path, host="elsewhere", beat=time.time() + 1000)
    with ownership(str(tmp_path)):
        pass


def test_a_process_number_that_is_used_again_is_another_process(tmp_path):
    write(tmp_path, born="1")
    with ownership(str(tmp_path)):
        pass


def test_a_damaged_record_is_written_anew(tmp_path):
    (tmp_path / "owner.json").write_text('{"id":')
    with ownership(str(tmp_path)):
        assert lock.current(str(tmp_path)) is not None


def test_it_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    with ownership(str(tmp_path)):
        first = lock.last_beat(str(tmp_path))
        deadline = time.monotonic() + 20
        while lock.last_beat(str(tmp_path)) == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_killed_driver_that_nobody_has_buried_is_dead(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write(tmp_path, pid=process.pid, born=lock._born(process.pid))
    assert lock.current(str(tmp_path)) is not None
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert lock.current(str(tmp_path)) is None
    process.communicate()


def test_a_driver_elsewhere_whose_clock_is_wrong_is_alive_while_its_record_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "STALE_SECONDS", 6.0)
    write(tmp_path, host="elsewhere", beat=0.0)
    beats = threading.Timer(0.3, write, (tmp_path,), {"host": "elsewhere", "beat": 1.0})
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
        write(tmp_path, id="other")
    assert storage.read_json(f"{tmp_path}/owner.json")["id"] == "other"


def test_a_driver_elsewhere_is_shown_by_its_beats_whatever_its_clock_says(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "LOOK_SECONDS", 6.0)
    write(tmp_path, host="elsewhere", beat=0.0)
    beats = threading.Timer(0.3, write, (tmp_path,), {"host": "elsewhere", "beat": 1.0})
    beats.start()
    found = lock.current(str(tmp_path))
    assert found is not None and found.host == "elsewhere"
    beats.join()
    monkeypatch.setattr(lock, "LOOK_SECONDS", 0.2)
    write(tmp_path, host="elsewhere", beat=time.time() + 1000)
    assert lock.current(str(tmp_path)) is None


def test_a_driver_whose_run_was_taken_over_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    with pytest.raises(KeyboardInterrupt), ownership(str(tmp_path)):
        for _ in range(200):  # a beat may come between its look and ours
            write(tmp_path, id="other")
            time.sleep(0.1)
    assert storage.read_json(f"{tmp_path}/owner.json")["id"] == "other"

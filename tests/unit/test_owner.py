import os
import socket
import subprocess
import sys
import time

import pytest

from pipelines import owner, storage
from pipelines.errors import OutputTakenError
from pipelines.owner import Owner, ownership


def write(run, **changes):
    values = Owner("x", socket.gethostname(), os.getpid(), owner._born(os.getpid()), time.time(), time.time())._asdict()
    storage.write_json(f"{run}/owner.json", values | changes)


def test_a_run_is_owned_as_long_as_its_driver_lives(tmp_path):
    with ownership(str(tmp_path)):
        found = owner.current(str(tmp_path))
        assert found is not None and found.pid == os.getpid()
    assert owner.current(str(tmp_path)) is None and not list(tmp_path.iterdir())


def test_a_second_live_driver_is_refused_with_the_first_ones_identity(tmp_path):
    with (
        ownership(str(tmp_path)),
        pytest.raises(OutputTakenError, match=f"process {os.getpid()} on {socket.gethostname()}"),
        ownership(str(tmp_path)),
    ):
        pass
    write(tmp_path, host="elsewhere")
    with pytest.raises(OutputTakenError, match="on elsewhere"), ownership(str(tmp_path)):
        pass


def test_a_dead_driver_is_succeeded_at_once_on_its_own_machine_and_after_a_while_elsewhere(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    write(tmp_path, pid=process.pid, born="1")
    with ownership(str(tmp_path)):
        pass
    write(tmp_path, host="elsewhere", beat=time.time() - 2 * owner.STALE_SECONDS)
    with ownership(str(tmp_path)):
        pass


def test_a_process_number_that_is_used_again_is_another_process(tmp_path):
    write(tmp_path, born="1")
    with ownership(str(tmp_path)):
        pass


def test_a_damaged_record_is_written_anew(tmp_path):
    (tmp_path / "owner.json").write_text('{"id":')
    with ownership(str(tmp_path)):
        assert owner.current(str(tmp_path)) is not None


def test_it_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "BEAT_SECONDS", 0.01)
    with ownership(str(tmp_path)):
        first = owner.last_beat(str(tmp_path))
        deadline = time.monotonic() + 20
        while owner.last_beat(str(tmp_path)) == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)

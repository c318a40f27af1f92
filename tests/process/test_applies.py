"""An apply of a configuration file goes on when processes are killed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psutil

from tests.applied import File
from tests.conftest import family, start_client, wait_until
from tests.process.load import Load


class Gate:
    """Is ready once a file is there, and answers with what it was made with."""

    def __init__(self, path):
        import pathlib
        import time

        self.path = path
        while path.startswith("/") and not pathlib.Path(path).exists():
            time.sleep(0.01)

    def __call__(self, request):
        return self.path


def test_the_controller_is_killed_in_the_middle(tmp_path):
    """The next one completes what was begun, whoever waits hears of it, and no request fails meanwhile (CF8)."""
    client, gate = start_client(), tmp_path / "open"
    file = File(client, "shop")
    assert file.outcome(file.send(old=file.backend(Gate, "old"), endpoint=file.endpoint(old=1.0))).state == "done"
    with Load(client, "/shop", methods=("GET",)) as load, ThreadPoolExecutor(1) as pool:
        operation = file.send(
            old=file.backend(Gate, "old", max_queued_queries=5),
            new=file.backend(Gate, str(gate)),
            endpoint=file.endpoint(new=1.0),
        )
        waiting = pool.submit(file.outcome, operation)
        wait_until(lambda: file.pids("new") - {None}, what="a replica that waits at the gate")
        controller = psutil.Process(client.status()["controller_pid"])
        controller.kill()
        wait_until(lambda: not controller.is_running(), what="the end of the controller")
        wait_until(lambda: file.pids("new"), what="the next controller")
        assert not waiting.done()
        gate.touch()
        assert waiting.result(30).state == "done"
        load.goes_on(20)
    assert load.statuses == {200}
    assert load.answers[0].text == "old"
    assert load.answers[-1].text == str(gate)
    client.shutdown()
    assert not family(), "processes were left behind"

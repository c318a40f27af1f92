"""console.live, standing and sampler: what viewers are sent, in virtual time."""

from __future__ import annotations

import asyncio
import json
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pointsman.console.events import LINK, NUMBERS, STATE, Event, News
from pointsman.console.live import ASK_AGAIN_S, MAX_VIEWERS, STALL_S, LiveResponse, Viewers
from pointsman.console.sampler import Sampler
from pointsman.console.samples import Part, Sample
from pointsman.console.server import ABORT
from pointsman.console.standing import Standing
from pointsman.exceptions import ServeException
from pointsman.model.evidence import Tally
from pointsman.telemetry.fresh import NO_GAUGES
from pointsman.testing.virtual_time import run, settle
from pointsman.wire.commands import Moves
from tests.conftest import WAIT_S


class Viewer:
    """One viewer's end of the stream.

    Args:
        reads: whether it takes what it is sent.
    """

    def __init__(self, news: News, viewers: Viewers, *, compressed: bool = False, reads: bool = True) -> None:
        self.body = b""
        self.headers: dict[bytes, bytes] = {}
        self.admitted = True
        self.cut = False
        self.is_over = False
        self.leave = asyncio.Event()
        self.takes = asyncio.Event()
        if reads:
            self.takes.set()
        response = LiveResponse(news, viewers, admitted=self._is_admitted, compressed=compressed)
        scope = {"state": {ABORT: self._cut}}
        self.task = asyncio.ensure_future(response(scope, self._receive, self._send))

    async def _is_admitted(self) -> bool:
        return self.admitted

    def _cut(self) -> None:
        self.cut = True

    async def _receive(self) -> dict[str, Any]:
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.headers = dict(message["headers"])
            return
        await self.takes.wait()
        self.body += message["body"]
        self.is_over = not message.get("more_body")

    @property
    def events(self) -> list[tuple[str, Any]]:
        found = []
        for block in self.body.decode().split("\n\n")[:-1]:
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        return found


def test_a_late_viewer_gets_the_newest_and_not_what_it_has_missed() -> None:
    """A viewer on a slow line misses a minute: it goes on with the state and the numbers of now (AD8)."""

    async def story() -> None:
        news, viewers = News(), Viewers()
        news.publish(NUMBERS, Event(NUMBERS, 0))
        news.publish(STATE, Event(STATE, "first"))
        viewer = Viewer(news, viewers)
        await settle()
        assert viewer.events == [("state", "first"), ("numbers", 0)]
        viewer.takes.clear()
        for number in range(1, 5):
            news.publish(NUMBERS, Event(NUMBERS, number))
            await settle()
        viewer.takes.set()
        await settle()
        assert viewer.events[2:] == [("numbers", 1), ("numbers", 4)]
        news.end()
        await viewer.task
        assert viewer.is_over
        assert viewers.count == 0

    run(story())


def test_a_viewer_that_never_reads_is_cut_off() -> None:
    """A viewer opens the stream and reads nothing: its connection is cut after ten seconds, and others notice nothing
    (AD8)."""

    async def story() -> None:
        news, viewers = News(), Viewers()
        news.publish(STATE, Event(STATE, "x" * 200_000))
        deaf, other = Viewer(news, viewers, reads=False), Viewer(news, viewers)
        await settle()
        assert other.events == [("state", "x" * 200_000)]
        await asyncio.sleep(STALL_S + 0.1)
        assert deaf.task.done()
        assert deaf.cut
        assert viewers.count == 1
        assert not other.cut
        other.leave.set()
        await other.task
        assert viewers.count == 0

    run(story())


def test_an_event_is_compressed_once_and_the_stream_is_whole() -> None:
    """A hundred viewers take gzip: each gets a stream of its own that any client can read to its end, of the same
    compressed events."""

    async def story() -> None:
        news, viewers = News(), Viewers()
        state, numbers = Event(STATE, {"name": "shop"}), Event(NUMBERS, {"time": 1.5})
        news.publish(STATE, state)
        some = [Viewer(news, viewers, compressed=True) for _ in range(50)]
        await settle()
        news.publish(NUMBERS, numbers)
        some += [Viewer(news, viewers, compressed=True) for _ in range(50)]
        await settle()
        news.end()
        for viewer in some:
            await viewer.task
            assert viewer.headers[b"content-encoding"] == b"gzip"
            decoder = zlib.decompressobj(wbits=31)
            assert decoder.decompress(viewer.body) == state.raw + numbers.raw
            assert decoder.eof  # the checksum is right
            assert state.deflated in viewer.body
        assert state.deflated is state.deflated

    run(story())


def test_a_revoked_token_ends_the_stream() -> None:
    """A token is revoked while its page is open: its stream ends within half a minute, and no other does (AD3)."""

    async def story() -> None:
        news, viewers = News(), Viewers()
        one, other = Viewer(news, viewers), Viewer(news, viewers)
        await settle()
        one.admitted = False
        await asyncio.sleep(ASK_AGAIN_S + 1)
        assert one.task.done()
        assert not other.task.done()
        other.leave.set()
        await other.task

    run(story())


class Instance:
    """What is read of a controller, and counted beside it."""

    is_linked = True
    rest_s = 1
    sample_s = 1.0

    def __init__(self) -> None:
        self.mark = 1
        self.asked = 0
        self.sampled = 0
        self.error: Exception | None = None

    def moves(self) -> Moves:
        if self.error is not None:
            raise self.error
        return Moves(self.mark, {}, {})

    def status(self) -> dict[str, Any]:
        self.asked += 1
        return {"version": self.mark, "endpoints": {"rank": {"route": "/rank", "queued": 3, "last_minute": {}}}}

    def sample(self) -> Sample:
        self.sampled += 1
        return Sample(self.sample_s, {Part("rank", "v1"): Tally(int(5 * self.sample_s))}, NO_GAUGES)

    def close(self) -> None:
        pass


def test_the_status_is_asked_for_only_when_it_has_changed() -> None:
    """A page is open for a minute and nothing changes: the controller makes one status of it; then a change is there at
    the next look (AD8)."""

    async def story() -> None:
        instance, news = Instance(), News()
        with ThreadPoolExecutor(1) as thread:
            standing = Standing(instance, news, thread, time_of_day=lambda: 0.0)
            for _ in range(60):
                await standing.look()
                await asyncio.sleep(1)
            assert instance.asked == 1
            first = news.newest[STATE]
            assert b'"rank":{"route":"/rank"}' in first.raw  # what moves is among the numbers
            instance.mark = 2
            await standing.look()
            assert instance.asked == 2
            assert news.newest[STATE] is not first

    run(story())


@pytest.mark.parametrize("broken", ["the connection", "the answer"])
def test_viewers_hear_that_the_controller_is_away_and_back(broken: str) -> None:
    """The controller dies, or answers no more: viewers hear that it is away, keep the last state, and hear when it is
    back (CR9)."""

    async def story() -> None:
        instance, news = Instance(), News()
        with ThreadPoolExecutor(1) as thread:
            standing = Standing(instance, news, thread, time_of_day=lambda: 7.0)
            await standing.look()
            state = news.newest[STATE]
            assert LINK not in news.newest
            instance.error = ServeException("the connection is lost") if broken == "the connection" else TimeoutError()
            await standing.look()
            assert news.newest[LINK].raw == b'event: away\ndata: {"time":7.0}\n\n'
            assert news.newest[STATE] is state
            instance.error = None
            await standing.look()
            assert news.newest[LINK].name == "back"

    run(story())


def test_viewers_hear_that_the_controller_is_away_though_it_was_just_asked_for_numbers() -> None:
    """On a cluster the numbers come from the controller, too. It dies while it is asked for them: viewers hear at once
    that it is away, and not when it is back (CR9)."""
    asked, back = threading.Event(), threading.Event()

    class Gone(Instance):
        def sample(self) -> Sample:
            asked.set()
            back.wait(WAIT_S)
            return super().sample()

    async def story() -> None:
        instance = Gone()
        sampler = Sampler(instance, instance, time_of_day=lambda: 7.0)
        sampling = asyncio.ensure_future(sampler.run())
        with sampler.viewers.one_more():
            while not asked.is_set():
                await asyncio.sleep(0.01)
            instance.error = ServeException("the connection is lost")
            while LINK not in sampler.news.newest:
                await asyncio.sleep(0.01)
        assert sampler.news.newest[LINK].name == "away"
        assert instance.sampled == 0
        back.set()
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)

    asyncio.run(asyncio.wait_for(story(), WAIT_S))


def test_one_sample_a_second_serves_all_and_is_taken_without_viewers_too() -> None:
    """Nobody looks for a minute: the numbers are remembered, and nothing is sent or asked; the first viewer gets all at
    once (CR1)."""

    async def story() -> None:
        instance = Instance()
        sampler = Sampler(instance, instance, time_of_day=lambda: 0.0)
        sampling = asyncio.ensure_future(sampler.run())
        await asyncio.sleep(60.5)
        assert sampler.news.newest == {}
        assert instance.asked == 0
        await sampler.response(_always, compressed=False)
        assert set(sampler.news.newest) == {STATE, NUMBERS}
        rows = (await _in_thread(lambda: sampler.series(endpoint="rank", day=False)))["rows"]
        assert [row[0] for row in rows[-61:]] == [None] + [5] * 60
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)
        assert sampler.news.over

    run(story())


def test_a_controller_that_hangs_holds_up_no_end() -> None:
    """The controller answers nothing while a page is open, and the console is told to end: what waits for an answer is
    a thread that no process waits for (AD1, AD8)."""
    asked, answers, before = threading.Event(), threading.Event(), set(threading.enumerate())

    class Hung(Instance):
        def moves(self) -> Moves:
            asked.set()
            answers.wait(WAIT_S)
            return super().moves()

    async def story() -> None:
        sampler = Sampler(Instance(), Hung())
        sampling = asyncio.ensure_future(sampler.run())
        opening = asyncio.ensure_future(sampler.response(_always, compressed=False))
        await _in_thread(lambda: asked.wait(WAIT_S))
        sampling.cancel()
        opening.cancel()
        await asyncio.gather(sampling, opening, return_exceptions=True)
        waiting = [thread for thread in set(threading.enumerate()) - before if "state" in thread.name]
        assert [thread.daemon for thread in waiting] == [True]
        answers.set()

    asyncio.run(story())


def test_nobody_looks_and_numbers_that_cost_much_are_asked_for_less_often() -> None:
    """On a cluster the controller is asked every five seconds while nobody looks, and each second while somebody does;
    the graphs have every second of both (CR1)."""

    async def story() -> None:
        instance = Instance()
        instance.rest_s, instance.sample_s = 5, 5.0
        sampler = Sampler(instance, instance, time_of_day=lambda: 0.0)
        sampling = asyncio.ensure_future(sampler.run())
        await asyncio.sleep(60.5)
        assert instance.sampled == 12
        with sampler.viewers.one_more():
            instance.sample_s = 1.0
            await asyncio.sleep(10)
        assert instance.sampled == 22
        rows = (await _in_thread(lambda: sampler.series(endpoint="rank", day=False)))["rows"]
        assert [row[0] for row in rows[-71:]] == [None] + [5] * 70
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)

    run(story())


async def _always() -> bool:
    return True


async def _in_thread(function: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function)


def test_viewers_have_a_limit() -> None:
    """More people than there is room for open the page: the next one is told so."""

    async def story() -> None:
        news, viewers = News(), Viewers()
        some = [Viewer(news, viewers) for _ in range(MAX_VIEWERS)]
        await settle()
        assert viewers.full
        news.end()
        await asyncio.gather(*(viewer.task for viewer in some))
        assert not viewers.full

    run(story())

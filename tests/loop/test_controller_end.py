"""The end of a controller whose instance goes on: commands are for the next one."""

from __future__ import annotations

import asyncio

from pointsman.testing import run, settle
from pointsman.wire.commands import DeleteBackend
from tests.loop.linked import LinkedWorld


def test_a_command_that_comes_too_late_is_left_to_the_next_controller() -> None:
    """While a new release takes over, my change reaches the old controller after it has closed its store: it is not
    answered, so that my client repeats it to the new one (CL4, CL5, PK6)."""

    async def main() -> None:
        world = LinkedWorld()
        await world.start()
        late = [asyncio.ensure_future(world.driver.command(DeleteBackend("c1", "unknown", force=True)))]
        ending = asyncio.ensure_future(world.controller.aclose())
        await asyncio.sleep(1.0)
        late.append(asyncio.ensure_future(world.driver.command(DeleteBackend("c2", "unknown", force=True))))
        await asyncio.sleep(1.0)
        await ending
        assert [command.done() for command in late] == [False, False]
        await asyncio.gather(world.driver.aclose(), world.router.aclose(), world.engine.aclose())
        world.server.close()
        await settle()
        await asyncio.gather(*late, return_exceptions=True)

    run(main())

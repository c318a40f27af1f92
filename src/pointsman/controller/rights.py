"""Who may send which command. The operator may send all; a console reads, and changes what its user's token allows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from msgspec import structs

from pointsman.controller.acting import time_of_day
from pointsman.controller.state import Desired
from pointsman.controller.tokens import holder_of, living
from pointsman.exceptions import ForbiddenError, TokenError
from pointsman.model.tokens import DEPLOY, OPERATE, VIEW, Holder, Token, includes
from pointsman.telemetry.logs import WarningBudget
from pointsman.wire.auth import ROLE_CONSOLE, ROLE_OPERATOR
from pointsman.wire.commands import (
    AnyCommand,
    Apply,
    Await,
    AwaitOperation,
    Query,
    QueryBackends,
    QueryDeclared,
    QueryFailures,
    QueryHistory,
    QueryMetrics,
    QueryMoves,
    QueryTraffic,
    TakeBack,
    TrafficCommand,
    UpdateBackendConfig,
)
from pointsman.wire.messages import Signed, Warrant
from pointsman.wire.rollouts import AwaitRollout, QueryRollout, QueryTallies, RolloutCommand
from pointsman.wire.scaling import QueryModels, ScalingCommand
from pointsman.wire.shadows import QueryExamples, QueryShadow
from pointsman.wire.tokens import CreateToken, QueryConsoleKey, QueryHolder, QueryTokens, RevokeToken

log = logging.getLogger(__name__)

READS = (
    Await | AwaitOperation | AwaitRollout | Query | QueryBackends | QueryDeclared | QueryExamples | QueryFailures
    | QueryHistory | QueryHolder | QueryMetrics | QueryModels | QueryMoves | QueryRollout | QueryShadow | QueryTallies
    | QueryTraffic
)  # fmt: skip
OPERATES = TrafficCommand | UpdateBackendConfig | RolloutCommand | ScalingCommand
DEPLOYS = Apply | TakeBack
FOR_OPERATORS = CreateToken | RevokeToken | QueryTokens | QueryConsoleKey
"""Also not for user code in replicas, which otherwise may do what an operator may."""


class Sender(NamedTuple):
    """Whoever has sent a command: the role of the connection, and the user of a console."""

    role: str
    warrant: Warrant | None = None


OPERATOR = Sender(ROLE_OPERATOR)


class Rights:
    """Admits commands or refuses them.

    Args:
        desired: returns the state, which has the tokens.
        filed: returns those of the token file.
    """

    def __init__(self, desired: Callable[[], Desired], filed: Callable[[], Mapping[str, Token]] = dict) -> None:
        self._desired = desired
        self._filed = filed
        self._warnings = WarningBudget(per_second=1)

    def admit(self, sender: Sender, command: AnyCommand) -> AnyCommand:
        """The command as it is carried out: one of a console's user is signed with the name of the token.

        Raises:
            TokenError: the token is missing, unknown, revoked or has ended.
            ForbiddenError: the sender's role does not include that.
        """
        if sender.role != ROLE_CONSOLE and sender.warrant is None:
            if isinstance(command, FOR_OPERATORS) and sender.role != ROLE_OPERATOR:
                raise ForbiddenError("only the operator makes and revokes tokens, by the command line")
            if isinstance(command, CreateToken | RevokeToken) and command.name in self._filed():
                raise ValueError(f"token {command.name!r} is in the token file; change it there, or take another name")
            return command
        if isinstance(command, READS):
            return command
        needed = needed_role(command)
        if needed is None:
            raise ForbiddenError(f"{command.__struct_config__.tag} is not for the console; use the command line")
        holder = self.holder(sender)
        if not includes(holder.role, needed):
            self._warn("token %r, for %s, was refused %s", holder.name, holder.role, command.__struct_config__.tag)
            raise ForbiddenError(f"token {holder.name!r} is for {holder.role}, and this needs {needed}")
        assert isinstance(command, Signed)
        return structs.replace(command, by=f"token {holder.name}")

    def holder(self, sender: Sender) -> Holder:
        """Whose token it is.

        Raises:
            TokenError: nobody's.
        """
        warrant = sender.warrant
        found = None
        if warrant is not None and warrant.token:
            tokens = {**self._desired().tokens, **self._filed()}
            found = holder_of(tokens.items(), warrant.token, time_of_day())
            if found is None:
                self._warn("somebody came to the console with a token that is unknown, was revoked, or has ended")
        if found is None:
            raise TokenError("the token is unknown, was revoked, or has ended; make one with: pointsman token create")
        return found

    def tokens(self) -> dict[str, Token]:
        """All tokens that have not ended, by name. Of two of one name that of the file counts, here and for its holder:
        a list that shows one of them would hide what the other may do."""
        return {**living(self._desired(), time_of_day()), **self._filed()}

    def _warn(self, text: str, *values: object) -> None:
        """Log a warning, and how many were held back: whoever guesses tokens does not fill the disk."""
        held_back = self._warnings.take("refused", time.monotonic())
        if held_back:
            log.warning("%d more lines like the next one were held back", held_back)
        if held_back is not None:
            log.warning(text, *values)


def needed_role(command: AnyCommand) -> str | None:
    """The role that a command needs; None for one that no console may send."""
    if isinstance(command, READS):
        return VIEW
    if isinstance(command, OPERATES):
        return OPERATE
    return DEPLOY if isinstance(command, DEPLOYS) else None

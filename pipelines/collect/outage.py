"""Tells a network that is down from hosts that are dead. Knows reasons and hosts, sends nothing."""

from collections import Counter, deque
from dataclasses import dataclass

from gesso.errors import UserError

UNREACHED = frozenset({"dns", "connection", "timeout"})  # how a link ends of which no server has said anything
WINDOW = 300  # links that are looked at
LEAST_HOSTS = 30  # different hosts among those that were not reached
MOST_REACHED = 0.01  # share of the links


@dataclass
class Request:
    """A link that has been started, and later how it ended."""

    host: str
    ended: bool = False
    reached: bool | None = None  # None: it was never sent


class OutageDetector:
    """Ends a run in which nothing is reachable, so that the links are not written off.

    Links are looked at in the order in which they were started, each when all before it have ended: else hosts that
    fail at once would come before those that take a while to answer. The rule: of the last 300 such links at most 1%
    were reached, so none of the first hundred, and those that were not are of at least 30 different hosts. A reached
    link is one with a response of any kind. Hosts of a table fail one by one and for good: with half of all hosts dead,
    30 in a row come once in 10⁹ times. A network that is down fails for all.
    """

    def __init__(self) -> None:
        self._started: deque[Request] = deque()
        self._last: deque[Request] = deque()
        self._unreached: Counter[str] = Counter()  # hosts, of the links in `_last`

    def start(self, link: str) -> Request:
        request = Request(link.partition("://")[2].partition("/")[0].lower())
        self._started.append(request)
        return request

    def end(self, request: Request, reached: bool | None) -> None:
        """Takes how a link ended. Raises UserError where the network is down, and starts anew."""
        request.ended, request.reached = True, reached
        while self._started and self._started[0].ended:
            self._add(self._started.popleft())
        links, failed, hosts = len(self._last), self._unreached.total(), len(self._unreached)
        if reached is False and hosts >= LEAST_HOSTS and links - failed <= MOST_REACHED * links:
            self._forget()
            raise UserError(
                f"no network: {failed} of the last {links} links, of {hosts} different hosts, could not be reached; "
                "their shard is not written: mend the connection, then the same command goes on"
            )

    def _add(self, request: Request) -> None:
        if request.reached is None:
            return
        self._last.append(request)
        if not request.reached:
            self._unreached[request.host] += 1
        if len(self._last) > WINDOW:
            self._remove(self._last.popleft())

    def _remove(self, request: Request) -> None:
        if not request.reached:
            self._unreached[request.host] -= 1
            if not self._unreached[request.host]:
                del self._unreached[request.host]

    def _forget(self) -> None:
        for kept in (self._started, self._last, self._unreached):
            kept.clear()

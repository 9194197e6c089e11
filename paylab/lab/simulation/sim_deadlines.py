"""The deadlines of calls under way. Hardly any comes true, so forgetting one must cost little."""

from typing import TYPE_CHECKING

from paylab.lab.simulation.virtual_time import VirtualLoop

if TYPE_CHECKING:  # calls carry deadlines, so at run time the import goes the other way
    from paylab.lab.simulation.sim_calls import SimCall

# Calls whose deadlines fall into one span of time wait together; those left when it begins get timers.
SPAN_NS = 1 << 27  # 134 ms


class _Span(dict["SimCall", None]):
    """The calls whose deadline falls into one span, in the order in which they were made."""

    @property
    def daemon(self) -> bool:
        """Whether all of them are of daemons."""
        return all(call.daemon for call in self)


class Deadlines:
    """Ends every call at its deadline that has not ended before."""

    def __init__(self, loop: VirtualLoop) -> None:
        """None yet."""
        self._loop = loop
        self._spans: dict[int, _Span] = {}

    def add(self, call: "SimCall") -> None:
        """Watch a call that has a deadline."""
        assert call.deadline_ns is not None
        number = call.deadline_ns // SPAN_NS
        span = self._spans.get(number)
        if span is None:
            begins_ns = number * SPAN_NS
            if begins_ns <= self._loop.now_ns:
                self._loop.at_ns(call.deadline_ns, _expire, call)
                return
            span = self._spans[number] = _Span()
            self._loop.at_ns(begins_ns, self._begin, span)
        span[call] = None

    def discard(self, call: "SimCall") -> None:
        """Forget a call that has ended."""
        assert call.deadline_ns is not None
        span = self._spans.get(call.deadline_ns // SPAN_NS)
        if span is not None:
            span.pop(call, None)

    def _begin(self, span: _Span) -> None:
        del self._spans[self._loop.now_ns // SPAN_NS]
        for call in span:
            assert call.deadline_ns is not None
            self._loop.at_ns(call.deadline_ns, _expire, call)


def _expire(call: "SimCall") -> None:
    call.expire()

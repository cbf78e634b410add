"""One workload, all contenders: each is prepared, checked against the reference, and only then timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from .memory import peak_allocated
from .peers import Peer
from .timing import Budget, Clock, Timing, interleave
from .workload import Unavailable, Workload

OK, UNAVAILABLE, FAILED, WRONG = "ok", "unavailable", "failed", "wrong"


@dataclass(frozen=True)
class Outcome:
    """What became of one contender: ``timing`` (by the first clock) where ``status`` is ok, else ``reason``."""

    name: str
    ours: bool
    status: str
    timing: Timing | None = None
    reason: str | None = None
    error: float | None = None
    memory: int | None = None  # peak bytes of a call, where that can be known
    start: float | None = None  # seconds from nothing to the first result
    kernel: str | None = None  # its name, where it is one and known
    clocks: Mapping[str, Timing | str] = field(default_factory=dict)  # by name, or why it has no such time


@dataclass
class _Ready:
    """A contender that computes the right result, and what is known of it so far."""

    peer: Peer
    run: Callable[[], object]
    outcome: Outcome


def contest(workload: Workload, peers: Sequence[Peer], clocks: Sequence[Clock], budget: Budget) -> list[Outcome]:
    """The outcomes in the order of ``peers``. A contender whose result disagrees with the reference is not timed;
    whatever a contender raises becomes its reason, so that the others still run."""
    outcomes: dict[str, Outcome] = {}
    ready: list[_Ready] = []
    threads = torch.get_num_threads()
    try:
        for peer in peers:
            prepared = _prepare(workload, peer)
            if isinstance(prepared, Outcome):
                outcomes[peer.name] = prepared
            else:
                ready.append(prepared)
        torch.set_num_threads(threads)  # whatever a contender's library made of it
        with torch.inference_mode():
            for one in ready:
                one.outcome = replace(one.outcome, memory=_peak(one, workload.device))
            runs = {one.peer.name: one.run for one in ready}
            timings = interleave(runs, clocks, budget, {one.peer.name for one in ready if not one.peer.capturable})
        for one in ready:
            found = timings[one.peer.name]
            first = found[clocks[0].name]
            assert isinstance(first, Timing)
            outcomes[one.peer.name] = replace(one.outcome, timing=first, clocks=found)
    except Exception as failure:  # out of memory with all of them at once, say
        for one in ready:
            reason = f"while timing all: {_first_line(failure)}"
            outcomes[one.peer.name] = Outcome(one.peer.name, one.peer.ours, FAILED, reason=reason)
    finally:
        for peer in peers:
            peer.finish()
    return [outcomes[peer.name] for peer in peers]


def _prepare(workload: Workload, peer: Peer) -> _Ready | Outcome:
    """``peer``, ready to be timed, or why not."""

    def lost(status: str, reason: str, error: float | None = None) -> Outcome:
        return Outcome(peer.name, peer.ours, status, None, reason, error)

    reason = peer.unavailable(workload.device, workload.dtype, workload.layout)
    if reason is not None:
        return lost(UNAVAILABLE, reason)
    try:
        tolerance = workload.tolerance
        _ = workload.folded  # made once for all: not part of anyone's start
        begin = time.perf_counter()
        with torch.no_grad():
            run = peer.prepare(workload)
        with torch.inference_mode():
            y = run()
            if workload.device.type == "cuda":
                torch.cuda.synchronize(workload.device)
            start = time.perf_counter() - begin
            error, kernel = workload.error(y), peer.kernel(workload)
    except Unavailable as unavailable:
        return lost(UNAVAILABLE, str(unavailable))
    except Exception as failure:  # a peer may raise anything
        return lost(FAILED, _first_line(failure))
    if not error <= tolerance:
        return lost(WRONG, f"error {error:.2g} of the largest value, more than {tolerance:.2g}", error)
    return _Ready(peer, run, Outcome(peer.name, peer.ours, OK, error=error, start=start, kernel=kernel))


def _peak(one: _Ready, device: torch.device) -> int | None:
    """The peak of what a call allocates. On the CPU ours includes the scratch memory that its kernels keep between
    calls, the most of all cases so far: nothing is hidden outside tensors."""
    if not one.peer.allocates_in_torch:
        return None
    peak = peak_allocated(one.run, device)
    hidden = one.peer.ours and device.type == "cpu"
    return peak + (torch.ops.mbv1.cpu_scratch_bytes() if hidden else 0)


def _first_line(failure: Exception) -> str:
    return f"{type(failure).__name__}: {str(failure).strip()}".splitlines()[0]

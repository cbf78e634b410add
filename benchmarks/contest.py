"""One workload, all contenders: each is prepared, checked against the reference, and only then timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .memory import peak_allocated
from .peers import Peer
from .timing import Budget, Clock, Timing, interleave
from .workload import Unavailable, Workload

OK, UNAVAILABLE, FAILED, WRONG = "ok", "unavailable", "failed", "wrong"


@dataclass(frozen=True)
class Outcome:
    """What became of one contender: ``timing`` where ``status`` is ok, else ``reason``."""

    name: str
    ours: bool
    status: str
    timing: Timing | None = None
    reason: str | None = None
    error: float | None = None
    memory: int | None = None  # peak bytes of a call, where that was asked for and can be known


def contest(
    workload: Workload, peers: Sequence[Peer], clock: Clock, budget: Budget, memory: bool = False
) -> list[Outcome]:
    """The outcomes in the order of ``peers``; ``memory`` asks for the peak of each one's allocations, too. A
    contender whose result disagrees with the reference is not timed; whatever a contender raises becomes its
    reason, so that the others still run."""
    outcomes: dict[str, Outcome] = {}
    runs: dict[str, Callable[[], object]] = {}
    errors: dict[str, float] = {}
    peaks: dict[str, int] = {}
    try:
        for peer in peers:
            outcome = _prepare(workload, peer, runs, errors)
            if outcome is not None:
                outcomes[peer.name] = outcome
        with torch.inference_mode():
            if memory:
                for peer in peers:
                    if peer.name in runs and peer.allocates_in_torch:
                        peaks[peer.name] = peak_allocated(runs[peer.name], workload.device)
                        if peer.ours and workload.device.type == "cpu":
                            # Kept between calls, the most of all cases so far: nothing is hidden outside tensors.
                            peaks[peer.name] += torch.ops.mbv1.cpu_scratch_bytes()
            timings = interleave(runs, clock, budget)
    except Exception as failure:  # out of memory with all of them at once, say
        reason = f"while timing all: {_first_line(failure)}"
        lost = [Outcome(p.name, p.ours, FAILED, reason=reason) for p in peers if p.name in runs]
        outcomes.update((outcome.name, outcome) for outcome in lost)
        timings = {}
    finally:
        for peer in peers:
            peer.finish()
    ours = {peer.name: peer.ours for peer in peers}
    for name, timing in timings.items():
        outcomes[name] = Outcome(name, ours[name], OK, timing, error=errors[name], memory=peaks.get(name))
    return [outcomes[peer.name] for peer in peers]


def _prepare(
    workload: Workload, peer: Peer, runs: dict[str, Callable[[], object]], errors: dict[str, float]
) -> Outcome | None:
    """Adds ``peer`` to ``runs`` and ``errors``, or returns why not."""

    def lost(status: str, reason: str, error: float | None = None) -> Outcome:
        return Outcome(peer.name, peer.ours, status, None, reason, error)

    reason = peer.unavailable(workload.device, workload.dtype, workload.layout)
    if reason is not None:
        return lost(UNAVAILABLE, reason)
    try:
        with torch.no_grad():
            run = peer.prepare(workload)
        with torch.inference_mode():
            error, tolerance = workload.error(run()), workload.tolerance
    except Unavailable as unavailable:
        return lost(UNAVAILABLE, str(unavailable))
    except Exception as failure:  # a peer may raise anything
        return lost(FAILED, _first_line(failure))
    if not error <= tolerance:
        return lost(WRONG, f"error {error:.2g} of the largest value, more than {tolerance:.2g}", error)
    runs[peer.name], errors[peer.name] = run, error
    return None


def _first_line(failure: Exception) -> str:
    return f"{type(failure).__name__}: {str(failure).strip()}".splitlines()[0]

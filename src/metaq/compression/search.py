"""The search for λ: the one whose file just fits a size, or the largest that keeps a quality.

Whatever is compressed, quantising it for a λ gives a file of some size and quality: the larger λ, the smaller both.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from metaq.errors import ConfigError, NonFiniteError

RANGE = 1e-7, 1e6
"""λ over a usual one between which a size is looked for."""

MARGIN = 0.006
"""Share of the limit that is left free at first, as estimates are about that good."""

CLOSE = 0.98
"""A file of this share of the limit is close enough."""

MAX_TRIES = 8
NUDGE = 1.1
"""Factor on λ where the estimate has nothing more to tell."""

TOLERANCE = 2e-3
MAX_STEPS = 12
WIDENING = 16.0

QUALITY_WIDENING, QUALITY_WIDENINGS, QUALITY_BISECTIONS = 8.0, 12, 8
NEIGHBOURS = (0.87, 0.93, 1.05, 1.1, 1.15, 1.2, 1.26, 1.32, 1.4, 1.5)
"""Shares of the λ found that are tried too: near the limit the quality is noisy in λ."""


KEEPING_TRIES = 8
AIMED, REACHED = 0.97, 0.94
"""Shares of the loss that is allowed: what is aimed for, and what is close enough."""

FARTHEST, NEAREST = 1000.0, 1.05
"""Factors on λ from one try to the next, at most and at least."""

LEAST_SLOPE, MOST_SLOPE = 0.3, 3.0
"""Of the logarithm of the loss over that of λ."""


class SizeEstimate(Protocol):
    """About how many bytes a model takes for some λ, known before it is coded."""

    @property
    def usual(self) -> float:
        """A λ that gives neither the smallest nor the largest file."""

    def size_bytes(self, multiplier: float) -> float:
        """Bytes of what is quantised."""


@dataclass(frozen=True, kw_only=True)
class Try:
    """A λ that was tried: its number from 0, and bytes of its file and of what does not depend on λ; 0 until known."""

    number: int
    multiplier: float
    file_bytes: int = 0
    fixed_bytes: int = 0


class SizeSearch:
    """What was tried so far for a file of at most `limit` bytes: of the files that fit, the largest is the best.

    `tries` are those of an earlier run, which is gone on with; `goal` is the option that asks for the size.
    """

    def __init__(
        self, limit: int, estimate: SizeEstimate, tries: Sequence[Try] = (), *, goal: str = "target_bytes"
    ) -> None:
        self._limit = limit
        self._goal = goal
        self._estimate = estimate
        self._finest, self._coarsest = (estimate.usual * factor for factor in RANGE)
        self.tries = list(tries)

    def next(self, fixed_bytes: Callable[[], int]) -> Try | None:
        """The next try, or None if one is good enough; `fixed_bytes` estimates what does not depend on λ.

        Raises :class:`ConfigError` if no file can be that small.
        """
        if self.tries and not self.tries[-1].file_bytes:
            return self.tries[-1]
        multiplier = self._following() if self.tries else self._first(fixed_bytes())
        if multiplier is None:
            return None
        self.tries.append(Try(number=len(self.tries), multiplier=multiplier))
        return self.tries[-1]

    def finish(self, current: Try, file_bytes: int, fixed_bytes: int = 0) -> None:
        """Take down the size of the file of `current`."""
        self.tries[current.number] = replace(current, file_bytes=file_bytes, fixed_bytes=fixed_bytes)

    @property
    def fitting(self) -> list[Try]:
        """The tries whose files fit, the best one last."""
        found = [each for each in self.tries if 0 < each.file_bytes <= self._limit]
        return sorted(found, key=lambda each: each.file_bytes)

    def best(self) -> Try:
        """The largest file that fits; raises :class:`ConfigError` if none does."""
        if not self.fitting:
            smallest = min(self.tries, key=lambda each: each.file_bytes)
            raise self._impossible(smallest.file_bytes, smallest.fixed_bytes)
        return self.fitting[-1]

    def _first(self, fixed_bytes: int) -> float:
        if fixed_bytes >= self._limit:
            raise self._impossible(fixed_bytes, fixed_bytes)
        return self._multiplier_for(max((1 - MARGIN) * self._limit - fixed_bytes, 1))

    def _following(self) -> float | None:
        """λ of the next try, or None if no more are needed or possible."""
        fitting = self.fitting
        finest = min((each.multiplier for each in fitting), default=math.inf)
        largest = fitting[-1].file_bytes if fitting else 0
        if largest >= CLOSE * self._limit or finest <= NUDGE * self._finest:
            return None
        coarsest = max((each.multiplier for each in self.tries if each not in fitting), default=0.0)
        if coarsest >= self._coarsest / NUDGE:
            return None
        last = self.tries[-1]
        ratio = (last.file_bytes - last.fixed_bytes) / max(self._estimate.size_bytes(last.multiplier), 1)
        room = (1 - MARGIN) * self._limit - last.fixed_bytes
        if len(self.tries) >= MAX_TRIES or room <= 0:
            # What the smallest file is, the coarsest λ alone tells.
            return None if fitting else self._coarsest
        wanted = self._multiplier_for(room / max(ratio, 1e-3))
        if not fitting:
            wanted = max(wanted, self._by_secant(room))
        if coarsest < wanted < finest:
            return wanted
        if coarsest and math.isfinite(finest):
            return math.sqrt(coarsest * finest)
        return coarsest * NUDGE if coarsest else finest / NUDGE

    def _by_secant(self, room: float) -> float:
        """λ at which the line through the two coarsest tries meets `room`, over logarithms; 0 if it does not.

        Where tensors cannot lose more, files shrink less than estimated, and tries by the estimate alone creep.
        """
        tried = sorted(self.tries, key=lambda each: each.multiplier)[-2:]
        if len(tried) < 2:
            return 0.0
        finer, coarser = tried
        sizes = [each.file_bytes - each.fixed_bytes for each in (finer, coarser)]
        if not sizes[0] > sizes[1] > 0:
            return 0.0
        slope = math.log(coarser.multiplier / finer.multiplier) / math.log(sizes[1] / sizes[0])
        distance = min(slope * math.log(room / sizes[1]), math.log(WIDENING))
        return min(coarser.multiplier * math.exp(distance), self._coarsest)

    def _multiplier_for(self, size_bytes: float) -> float:
        """λ for which the estimate is about `size_bytes`: bytes fall with λ; logarithms of both are interpolated."""
        estimate = self._estimate.size_bytes
        low, high = self._bracket(size_bytes)
        for number in range(MAX_STEPS):
            sizes = [math.log(max(estimate(end), 1)) for end in (low, high)]
            if sizes[0] <= sizes[1]:
                break
            share = (sizes[0] - math.log(size_bytes)) / (sizes[0] - sizes[1])
            # Interpolation alone creeps where the curve bends; every third step halves the range.
            share = 0.5 if number % 3 == 2 else min(max(share, 0.0), 1.0)
            guess = math.exp((1 - share) * math.log(low) + share * math.log(high))
            found = estimate(guess)
            if abs(found - size_bytes) <= TOLERANCE * size_bytes:
                return guess
            low, high = (guess, high) if found > size_bytes else (low, guess)
        return high

    def _bracket(self, size_bytes: float) -> tuple[float, float]:
        """Two λ, one for more bytes and one for fewer; both the same at the end of the range."""
        estimate = self._estimate.size_bytes
        low = high = self._estimate.usual
        if not (math.isfinite(low) and math.isfinite(estimate(low))):
            raise NonFiniteError(
                f"{self._goal}: no size can be estimated, as what errors of weights do is NaN or infinite; give other "
                "batches, scaled as in training."
            )
        while estimate(low) < size_bytes:
            if low <= self._finest:
                return self._finest, self._finest
            low, high = max(low / WIDENING, self._finest), low
        while estimate(high) > size_bytes:
            if high >= self._coarsest:
                return self._coarsest, self._coarsest
            low, high = high, min(high * WIDENING, self._coarsest)
        return low, high

    def _impossible(self, file_bytes: int, fixed_bytes: int) -> ConfigError:
        kept = f", {fixed_bytes:,} of them for what does not depend on quality, such as names" if fixed_bytes else ""
        return ConfigError(
            f"{self._goal}: no file of {self._limit:,} bytes can be made of this model: the smallest has "
            f"{file_bytes:,} bytes or more{kept}; allow more bytes."
        )


class Candidate(Protocol):
    """A model quantised for some λ."""

    @property
    def file_bytes(self) -> int:
        """Size of its file."""


CandidateT = TypeVar("CandidateT", bound=Candidate)


def smallest_good(
    at: Callable[[float], CandidateT],
    is_good: Callable[[CandidateT], bool],
    start: float,
    *,
    widening: float = QUALITY_WIDENING,
    bisections: int = QUALITY_BISECTIONS,
    neighbours: Sequence[float] = NEIGHBOURS,
) -> CandidateT | None:
    """The smallest file found among the good ones, or None if even small λ give none.

    `at` gives the model quantised for a λ; `is_good` is true for small λ and false for large ones, but for noise. From
    `start`, λ is changed by the factor `widening` until there is one good and one that is not, the range between them
    is halved `bisections` times, and λ of the shares `neighbours` of the largest good one are tried too.
    """
    best: CandidateT | None = None
    good, bad, multiplier = 0.0, math.inf, start

    def tried() -> None:
        nonlocal good, bad, best
        found = at(multiplier)
        if is_good(found):
            good, best = multiplier, found
        else:
            bad = multiplier

    tried()
    for _ in range(QUALITY_WIDENINGS):
        if good and math.isfinite(bad):
            break
        multiplier *= 1 / widening if math.isfinite(bad) else widening
        tried()
    for _ in range(bisections):
        if not good or math.isinf(bad):
            break
        multiplier = math.sqrt(good * bad)
        tried()
    if best is None:
        return None
    near = [at(good * factor) for factor in neighbours]
    return min([best, *filter(is_good, near)], key=lambda each: each.file_bytes)


def smallest_keeping(
    at: Callable[[float], CandidateT], loss_of: Callable[[CandidateT], float], allowed: float, start: float
) -> CandidateT | None:
    """The smallest file found with a loss of at most `allowed`, or None; `loss_of` is 0 for the original weights.

    The logarithm of the loss is nearly a line over that of λ. From `start`, every next λ is where the line through the
    nearest tries, one of each side where there are such, meets the loss that is aimed for.
    """
    tried: dict[float, float] = {}
    best: CandidateT | None = None
    multiplier: float | None = start
    while multiplier is not None and len(tried) < KEEPING_TRIES:
        found = at(multiplier)
        loss = tried[multiplier] = loss_of(found)
        if loss <= allowed and (best is None or found.file_bytes < best.file_bytes):
            best = found
        multiplier = None if REACHED * allowed <= loss <= allowed else _next_keeping(tried, allowed)
    return best


def _next_keeping(losses: Mapping[float, float], allowed: float) -> float | None:
    """The next λ after those that were tried, with their losses; None if there is none between the nearest two."""
    good = max((multiplier for multiplier, loss in losses.items() if loss <= allowed), default=0.0)
    # Noise may leave bad ones below good ones.
    bad = min((multiplier for multiplier, loss in losses.items() if loss > allowed and multiplier > good), default=0.0)
    low, high = good * NEAREST or bad / FARTHEST, bad / NEAREST or good * FARTHEST
    if low >= high:
        return None
    aimed = math.log(AIMED * allowed)
    known = sorted((abs(math.log(loss) - aimed), multiplier) for multiplier, loss in losses.items() if 0 < loss < 1)
    if not known:
        return high if good else low
    nearest = known[0][1]
    slope = 1.0
    if len(known) > 1:
        other = known[1][1]
        slope = math.log(losses[other] / losses[nearest]) / math.log(other / nearest)
    far = (aimed - math.log(losses[nearest])) / min(max(slope, LEAST_SLOPE), MOST_SLOPE)
    guess = nearest * math.exp(far)
    if low < guess < high:
        return guess
    return math.sqrt(low * high) if good and bad else min(max(guess, low), high)

"""Requests followed in a continuous batch: their rows encoded as they come, folded a little later, a slot each.

A step only encodes its rows and lays them aside; every `ROOM` steps all that was laid aside is folded at once, on the
device. Folding in any chunks is exactly the same, so this costs little and changes nothing. Each request's newest rows
stay aside until it is known that they belong to its answer: a step may run beyond an answer's end (async scheduling),
and a stop string takes tokens away.

Positions, not steps, say what is new: rows that come again (preemption, a request announced anew) are skipped, and rows
that never came (a prefix-cache hit over an answer) are found missing.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from groundwire.engines.vllm.running import RunningFile, tag
from groundwire.engines.vllm.wire import Take, Wish, pack, pack_rows
from groundwire.scoring import Scorer

logger = logging.getLogger(__name__)

ROOM = 32  # rows of a request that may lie aside
SPARE = 512  # answers that are over and whose readouts nobody has fetched; beyond, the oldest is dropped
WAITING = 1 << 16  # replays that are over, likewise

Name = tuple[str, int]  # a request's key and the number of the choice


@dataclass(frozen=True)
class Part:
    """What a step reads of one request: `count` tokens from position `first` on."""

    request_id: str
    first: int
    count: int


@dataclass(frozen=True)
class _Told:
    """Running scores on their way off the device. there: whether they have come. entries: place, tag, rows of each."""

    sums: Tensor
    there: Callable[[], bool]
    entries: list[tuple[int, int, int]]


@dataclass(eq=False)
class _Followed:
    """One choice. start, next: positions of its first and of its next row. end: of the end of its prompt. aside: rows
    laid aside. folded: rows in the state. broken: a row never came. kept: rows, or features, that are handed back or
    folded at the end."""

    name: Name
    wish: Wish
    start: int
    slot: int
    next: int
    end: int
    aside: int = 0
    folded: int = 0
    broken: bool = False
    kept: list[Tensor] = field(default_factory=list)

    @property
    def place(self) -> int | None:
        """Of its running score."""
        return self.wish.running[self.name[1]] if self.name[1] < len(self.wish.running) else None

    def new(self, part: Part) -> int:
        """How many of a part's last tokens are new rows."""
        end = part.first + part.count
        if self.broken or end <= self.next:
            return 0
        if part.first > self.next:
            self.broken = True
            return 0
        new, self.next = end - self.next, end
        return new


class Slots:
    """Follows requests on one device. Not for several threads.

    scorer: on that device. capacity: requests that are under way at most.
    """

    def __init__(self, scorer: Scorer, capacity: int, running: RunningFile | None = None) -> None:
        self.scorer, self.device = scorer, scorer.encoder.weight.device
        self._host = scorer.to("cpu")
        self._running = running
        size = capacity + SPARE
        self._state = scorer.new_state(size, self.device)
        self._aside = torch.zeros(size, ROOM, scorer.terms, device=self.device)
        self._free = list(range(size))
        self._live: dict[str, _Followed] = {}  # by vLLM's own id
        self._named: OrderedDict[Name, _Followed] = OrderedDict()
        self._done: OrderedDict[Name, bytes | None] = OrderedDict()  # of replays
        self._told: deque[_Told] = deque()

    def __len__(self) -> int:
        """Choices that have a slot."""
        return len(self._named)

    @property
    def following(self) -> bool:
        """Whether a step may bring rows that are wanted."""
        return bool(self._live)

    @torch.inference_mode()
    def begin(self, request_id: str, wish: Wish, prompt: int) -> None:
        """Follow a request whose prompt has so many tokens. A choice that is followed already goes on where it was.

        Raises ValueError where the id does not tell which of several choices it is.
        """
        if request_id in self._live:
            return
        name = (wish.key, int(request_id.split("_", 1)[0]) if wish.choices > 1 else 0)
        if name not in self._named:
            start = prompt if wish.start is None else wish.start
            self._named[name] = _Followed(name, wish, start, self._slot(), start, end=prompt)
        self._live[request_id] = self._named[name]

    @torch.inference_mode()
    def end(self, request_ids: Iterable[str]) -> None:
        """Requests that get no further step. What was found of them waits to be taken."""
        over = [followed for request_id in request_ids if (followed := self._live.pop(request_id, None))]
        for followed in over:
            if followed.name in self._named:
                self._named.move_to_end(followed.name)  # of those that nobody fetches, the first to end goes first
        replays = [followed for followed in over if followed.wish.replay and not followed.wish.rows]
        takes = [Take(*followed.name, count=followed.end - followed.start) for followed in replays]
        for followed, found in zip(replays, self.take(takes), strict=True):
            self._done[followed.name] = found
        while len(self._done) > WAITING:
            self._done.popitem(last=False)
            logger.warning("the readout of a replay was never fetched: it is dropped")

    def wants(self, part: Part) -> bool:
        """Whether a part may bring new rows."""
        followed = self._live.get(part.request_id)
        return followed is not None and not followed.broken and part.first + part.count > followed.next

    def lose(self) -> None:
        """A step went by that could not be followed: what was under way has no readout."""
        for followed in self._live.values():
            followed.broken = True

    @torch.inference_mode()
    def step(self, rows: Float[Tensor, "tokens d"], parts: Sequence[Part]) -> None:
        """Rows of one forward pass, those of `parts` one after the other."""
        index: list[int] = []
        owners: list[tuple[_Followed, int]] = []
        offset = 0
        for part in parts:
            offset += part.count
            followed = self._live.get(part.request_id)
            if followed is not None and (new := followed.new(part)):
                index += range(offset - new, offset)
                owners.append((followed, new))
        if not owners:
            return
        chosen = rows[self._tensor(index)]
        for (followed, _), own in zip(owners, chosen.split([new for _, new in owners]), strict=True):
            if followed.wish.rows:
                followed.kept.append(own.float())
        if not all(followed.wish.rows for followed, _ in owners):
            self._lay(owners, self.scorer.encode(chosen))
            self._tell([followed for followed, _ in owners if followed.place is not None])

    def tell(self) -> None:
        """Write the running scores that the device has computed by now. Nobody waits for it."""
        while self._told and self._running is not None:
            told = self._told[0]
            if not told.there():
                return
            for (place, tag_, rows), total in zip(told.entries, told.sums.tolist(), strict=True):
                self._running.write(place, tag_, rows, total)
            self._told.popleft()

    @torch.inference_mode()
    def take(self, takes: Sequence[Take]) -> list[bytes | None]:
        """The readouts of answers (`wire.pack`), in order, or their rows (`wire.pack_rows`); their slots are free then.

        None where the rows are not all there, or the choice is not known.
        """
        found: dict[int, bytes | None] = {}
        ready: list[tuple[int, _Followed, Tensor | None]] = []
        for i, wanted in enumerate(takes):
            name = (wanted.key, wanted.choice)
            followed = self._named.get(name)
            if followed is None:
                found[i] = self._done.pop(name, None)
            elif followed.wish.rows:
                found[i] = _rows(followed, wanted)
            elif self._complete(followed, wanted):
                ready.append((i, followed, self._features(followed, wanted)))
        found |= self._packed(ready)
        for wanted in takes:
            self._forget((wanted.key, wanted.choice))
        return [found.get(i) for i in range(len(takes))]

    def drop(self, keys: Sequence[str]) -> None:
        """Forget all choices of requests. Unknown keys are ignored."""
        gone = set(keys)
        for name in [name for name in (*self._named, *self._done) if name[0] in gone]:
            self._forget(name)
            self._done.pop(name, None)

    # -- rows -----------------------------------------------------------------------------------------------------

    def _lay(self, owners: Sequence[tuple[_Followed, int]], features: Tensor) -> None:
        """Lay rows aside, or fold them at once where their answer is whole already."""
        if any(followed.aside + new > ROOM for followed, new in owners if not followed.wish.replay):
            self._settle(self._named.values())
        slots: list[int] = []
        places: list[int] = []
        index: list[int] = []
        whole: list[tuple[_Followed, int]] = []
        at_once: list[int] = []
        offset = 0
        for followed, new in owners:
            mine = range(offset, offset + new)
            offset += new
            if followed.wish.rows:
                continue
            if followed.wish.replay:
                whole.append((followed, new))
                at_once += mine
            elif followed.aside + new > ROOM:  # no answer that is generated grows by so much in a step
                followed.broken = True
            else:
                slots += [followed.slot] * new
                places += range(followed.aside, followed.aside + new)
                index += mine
                followed.aside += new
        if index:
            self._aside[self._tensor(slots), self._tensor(places)] = self._picked(features, index)
        if whole:
            self._fold(whole, self._picked(features, at_once))

    def _settle(self, all_: Iterable[_Followed]) -> None:
        """Fold what lies aside, but for the rows that are held back."""
        due = [(followed, followed.aside - followed.wish.hold) for followed in all_]
        due = [(followed, count) for followed, count in due if count > 0]
        if not due:
            return
        slots = self._tensor([f.slot for f, count in due for _ in range(count)])
        self._fold(due, self._aside[slots, self._tensor([place for _, count in due for place in range(count)])])
        kept = [(f.slot, place, count) for f, count in due for place in range(count, f.aside)]
        if kept:
            slots, places, counts = (self._tensor(list(column)) for column in zip(*kept, strict=True))
            self._aside[slots, places - counts] = self._aside[slots, places]
        for followed, count in due:
            followed.aside -= count

    def _fold(self, owners: Sequence[tuple[_Followed, int]], features: Tensor) -> None:
        """Fold rows of several choices, or keep them until it is known which of them belong to the answer.

        Those that are kept are folded as well where a score so far is wanted, and once more at the end.
        """
        slots: list[int] = []
        index: list[int] = []
        offset = 0
        for followed, count in owners:
            if followed.wish.keep or followed.wish.features:
                followed.kept.append(features[offset : offset + count])
            if not followed.wish.keep or followed.place is not None:
                slots += [followed.slot] * count
                index += range(offset, offset + count)
                followed.folded += count
            offset += count
        if index:
            self.scorer.fold(self._state, self._picked(features, index), self._tensor(slots))

    def _tell(self, told: Sequence[_Followed]) -> None:
        """Have the running scores written of choices that want them."""
        if self._running is None or not told:
            return
        self._settle(told)
        known = [(f.slot, (f.place, tag(f.wish.key), f.folded)) for f in told if f.folded and f.place is not None]
        if not known:
            return
        slots, entries = (list(column) for column in zip(*known, strict=True))
        logits = self.scorer.logits(self._state, self._tensor(slots))
        sums = (logits - self.scorer.intercept).to("cpu", non_blocking=True)
        self._told.append(_Told(sums, self._mark(), entries))
        self.tell()

    def _mark(self) -> Callable[[], bool]:
        """What tells whether the device has done all that it was given so far."""
        if self.device.type != "cuda":
            return lambda: True
        event = torch.cuda.Event()
        event.record()
        return event.query

    def _picked(self, features: Tensor, index: Sequence[int]) -> Tensor:
        return features if len(index) == len(features) else features[self._tensor(index)]

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        """Numbers on the device, without waiting for it."""
        return torch.tensor(numbers, dtype=torch.long).to(self.device, non_blocking=True)

    # -- answers --------------------------------------------------------------------------------------------------

    def _complete(self, followed: _Followed, wanted: Take) -> bool:
        """Whether the rows of an answer are there; what of them lies aside is folded then."""
        there = followed.next - followed.start
        if followed.broken or wanted.skip < 0 or not 0 <= wanted.count <= there - wanted.skip:
            return False
        if followed.wish.keep:
            return True
        left = wanted.count - followed.folded
        if wanted.skip or not 0 <= left <= followed.aside:
            return False
        if left:
            self._fold([(followed, left)], self._aside[followed.slot, :left])
        return True

    def _features(self, followed: _Followed, wanted: Take) -> Tensor | None:
        """The features of an answer, where they were kept; its rows are folded now, where they were not before."""
        if not (followed.wish.keep or followed.wish.features):
            return None
        rest = [self._aside[followed.slot, : followed.aside]] if followed.wish.keep else []
        features = torch.cat([*followed.kept, *rest])[wanted.skip : wanted.skip + wanted.count]
        if followed.wish.keep:
            self._state.reset(followed.slot)
            self.scorer.fold(self._state, features, self._tensor([followed.slot] * len(features)))
        return features.cpu() if followed.wish.features else None

    def _packed(self, ready: Sequence[tuple[int, _Followed, Tensor | None]]) -> dict[int, bytes]:
        """Readouts of slots that are complete: one copy off the device for all."""
        state = self._state.at([followed.slot for _, followed, _ in ready]) if ready else None
        if state is None:
            return {}
        return {
            i: pack(replace(self._host.finish(state, n), features=features)) for n, (i, _, features) in enumerate(ready)
        }

    # -- slots ----------------------------------------------------------------------------------------------------

    def _slot(self) -> int:
        over = len(self._named) - len({followed.name for followed in self._live.values()})
        if over >= SPARE or not self._free:
            live = {followed.name for followed in self._live.values()}
            oldest = next((name for name in self._named if name not in live), None)
            if oldest is not None:
                logger.warning("the readout of an answer was never fetched: it is dropped")
                self._forget(oldest)
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._state.reset(slot)
        return slot

    def _grow(self) -> None:
        size = len(self._aside)
        self._state = self._state.extended(self.scorer.new_state(SPARE, self.device))
        self._aside = torch.cat([self._aside, self._aside.new_zeros(SPARE, ROOM, self.scorer.terms)])
        self._free += range(size, size + SPARE)

    def _forget(self, name: Name) -> None:
        followed = self._named.pop(name, None)
        if followed is None:
            return
        self._free.append(followed.slot)
        for request_id in [r for r, other in self._live.items() if other is followed]:
            del self._live[request_id]


def _rows(followed: _Followed, wanted: Take) -> bytes | None:
    """The residual rows of an answer."""
    if followed.broken or followed.next - followed.start < wanted.skip + wanted.count or not followed.kept:
        return None
    return pack_rows(torch.cat(followed.kept)[wanted.skip : wanted.skip + wanted.count].cpu())

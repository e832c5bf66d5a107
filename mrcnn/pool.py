"""Actors of Ray that do the parts of a batch: one for each GPU or some cores, on any machines.

    batch.run(batch.Exported("model.onnx"), ["photos"], "detections", ray=pool.Ray("auto"))

Each actor holds the model and does one part after the other; their number grows while parts wait
and there is room, and shrinks when none is left. A part whose actor died (its process, its machine)
is given to another. Nothing else is shared: what was done says the output folder, which all
machines must see under the same path or address, as the model's file and the images. Needed is Ray.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib
import logging
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mrcnn import batch

logger = logging.getLogger(__name__)

# Times that a part's actor may die; the part is then given up, and the others go on.
ATTEMPTS = 3
# Actors in a row that may die before one has finished a part, beside twice those that there were:
# a machine's all die at once.
DEATHS = 6
# Seconds between looks at whether there is room for one more actor, and after which a warning says
# that there is room for none.
LOOK = 1.0
PATIENCE = 60.0
# Cores of an actor without a GPU, where nothing else is asked for.
CORES = 4.0
# Bytes of Ray's store where it is started here; 75 MB are the least that it takes.
STORE = 100_000_000


def import_ray() -> Any:
    """The module ray.

    Raises:
        ImportError: it is not installed; says what to install.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError(
            f'Actors need Ray: pip install "mask-rcnn-keras3[ray]" ({error})'
        ) from error


@dataclasses.dataclass
class Ray:
    """Where actors run, and how many.

    Attributes:
        address: "local" for this machine alone; "auto" or an address for a cluster.
        workers: (fewest, most) actors; most None: as many as there is room for.
        cpus, gpus: that each of them has; None: a GPU and a core where there are GPUs, else CORES.
    """

    address: str = "local"
    workers: tuple[int, int | None] = (1, None)
    cpus: float | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        fewest, most = self.workers
        if fewest < 1 or (most is not None and most < fewest):
            raise ValueError(
                f"workers are 1 or more, the most not below the fewest. Received: {fewest}:{most}"
            )
        for name in ("cpus", "gpus"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is 0 or more. Received: {value}")


def limits(text: str | None) -> tuple[int, int | None]:
    """(fewest, most) actors of a text such as 2:16, 2: or 4; (1, None) of None.

    Raises:
        ValueError: another text.
    """
    if text is None:
        return 1, None
    fewest, colon, most = text.partition(":")
    if not colon:
        most = fewest
    for number in (fewest, most or "1"):
        if not (number.isascii() and number.isdigit()):
            raise ValueError(f"workers are MIN:MAX, such as 2:16, or a number. Received: {text!r}")
    if not most:
        return int(fewest), None
    return int(fewest), int(most)


def work(
    make: Callable[[], Any], job: batch.Job, parts: np.ndarray, settings: Ray
) -> Iterator[batch.Done]:
    """Does parts by actors; yields each that is done, in any order.

    Args:
        make: f() that makes the model, in each actor.
        job: the job.
        parts: [n] their numbers.
        settings: see `Ray`.

    Raises:
        ImportError: no Ray, or an actor that lacks a package. ConnectionError: no cluster there.
        ChildProcessError: actors that died again and again; parts that they did are there.
        others: what making the model or doing a part raised.
    """
    ray = import_ray()
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(ray, settings.address)
    pool = _Pool(ray, make, job, settings)
    try:
        yield from pool.done(parts)
    finally:
        pool.end()
        if is_ours:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    """Starts Ray on this machine, or connects to a cluster."""
    # Ray tells of its own affairs at length; what goes wrong here is told by errors.
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address != "local":
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConnectionError(f"No Ray cluster at {address}: {error}") from error
        return
    # The processes that it starts find this package where this one found it.
    root = str(pathlib.Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    # Nothing of size goes through Ray's own store; by default it takes a third of the memory.
    ray.init(address="local", include_dashboard=False, object_store_memory=STORE, **quiet)


@dataclasses.dataclass
class _Member:
    """An actor of the pool.

    Attributes:
        actor: Ray's handle.
        is_ready: whether it has its model.
        part: that it is doing; None for none.
    """

    actor: Any
    is_ready: bool = False
    part: int | None = None


class _Pool:
    """Actors, and the parts that they do."""

    def __init__(self, ray: Any, make: Callable, job: batch.Job, settings: Ray):
        self.ray = ray
        self.job = job
        self.settings = settings
        self.needs = _needs(ray, settings, make)
        self.make = _with_threads(make, self.needs)
        self.members: dict[Any, _Member] = {}  # by the call that is under way
        self.idle: list[_Member] = []
        self.again: collections.deque[int] = collections.deque()  # parts whose actor died
        self.deaths: collections.Counter = collections.Counter()  # by part
        self.deaths_in_a_row = 0
        self.largest = 0  # number of actors that there were
        self.given_up: list[int] = []
        self.last_death = ""

    def done(self, parts: np.ndarray) -> Iterator[batch.Done]:
        """Does all parts; yields each that is done."""
        fresh = iter(parts.tolist())
        left = len(parts)
        last_sign = time.monotonic()
        warned = False
        self._grow(left)
        while left > len(self.given_up):
            self._give(fresh)
            calls = list(self.members)
            ready, _ = self.ray.wait(calls, num_returns=1, timeout=LOOK)
            for call in ready:
                done = self._take(call)
                if done is not None:
                    left -= 1
                    yield done
            if ready or any(member.is_ready for member in self.members.values()):
                last_sign = time.monotonic()
            elif not warned and time.monotonic() - last_sign > PATIENCE:
                warned = True
                logger.warning(
                    "Ray has no room yet for an actor with %s; the cluster has %s",
                    self.needs,
                    self.ray.cluster_resources(),
                )
            self._grow(left - len(self.given_up))
        self._release_idle()
        if self.given_up:
            raise ChildProcessError(self._given_up_text())

    # ---- Parts -------------------------------------------------------------------------------

    def _give(self, fresh: Iterator[int]) -> None:
        """Gives parts to actors that have none; what has nothing to do is let go."""
        while self.idle:
            part = self._next(fresh)
            if part is None:
                break
            member = self.idle.pop()
            member.part = part
            self.members[member.actor.do.remote(part)] = member
        if self.members:
            self._release_idle()

    def _next(self, fresh: Iterator[int]) -> int | None:
        """The next part to do: first a fresh one, then those that have killed an actor."""
        part = next(fresh, None)
        if part is None and self.again:
            part = self.again.popleft()
        return part

    def _take(self, call: Any) -> batch.Done | None:
        """The end of a call: an actor that is ready, or a part that is done; None for no part."""
        member = self.members.pop(call)
        try:
            done = self.ray.get(call)
        except self.ray.exceptions.RayTaskError as error:
            raise _cause_of(error) from error
        except self.ray.exceptions.RayError as error:
            self._lose(member, error)
            return None
        self.idle.append(member)
        if not member.is_ready:
            member.is_ready = True
            return None
        member.part = None
        self.deaths_in_a_row = 0
        return done

    def _lose(self, member: _Member, error: Exception) -> None:
        """Notes that an actor died, and its part for another."""
        self.deaths_in_a_row += 1
        self.last_death = " ".join(str(error).split())[:300]
        logger.warning("An actor died and is replaced: %s", self.last_death)
        if member.part is not None:
            self.deaths[member.part] += 1
            if self.deaths[member.part] < ATTEMPTS:
                self.again.append(member.part)
            else:
                self.given_up.append(member.part)
        if self.deaths_in_a_row >= DEATHS + 2 * self.largest and not self.given_up:
            raise ChildProcessError(
                f"{self.deaths_in_a_row} actors died, none of them finished a part. The last:"
                f" {self.last_death}"
            )

    def _given_up_text(self) -> str:
        """The error message for parts whose actors died repeatedly."""
        part = self.given_up[0]
        start, stop = self.job.rows_of(part)
        images = [entry.image for entry in self.job.manifest().rows(start, stop)]
        return (
            f"{len(self.given_up)} parts were not done, since {ATTEMPTS} actors died at each; all"
            f" others are. The first is {self.job.part_path(part)}, of {images[0]} to {images[-1]}:"
            f" one may take all memory. The last death: {self.last_death}"
        )

    # ---- Actors ------------------------------------------------------------------------------

    def _grow(self, parts: int) -> None:
        """Starts actors: the fewest that are wanted, then as many more as have their models."""
        fewest, most = self.settings.workers
        while self._count() < min(fewest, parts):
            self._start()
        if most is None:
            most = parts
        ready = len(self.idle) + sum(member.is_ready for member in self.members.values())
        # A cluster that grows by itself must be asked for what it has no room for yet; it is asked
        # up to a number that was given.
        may_ask = self.settings.workers[1] is not None
        while self._count() < min(most, parts, 2 * ready) and (may_ask or self._is_room()):
            self._start()

    def _count(self) -> int:
        return len(self.members) + len(self.idle)

    def _is_room(self) -> bool:
        """Whether the cluster has what one more actor needs."""
        free = self.ray.available_resources()
        names = {"num_cpus": "CPU", "num_gpus": "GPU"}
        return all(free.get(names[name], 0) >= need for name, need in self.needs.items())

    def _start(self) -> None:
        """Starts an actor, which makes its model."""
        # No restarts of Ray's own: they would make a model before anyone asks for it.
        actor_class = self.ray.remote(max_restarts=0, **self.needs)(self.job.worker_class)
        member = _Member(actor_class.remote(self.make, self.job))
        self.members[member.actor.load.remote()] = member
        self.largest = max(self.largest, self._count())

    def end(self) -> None:
        """Ends all actors."""
        self._release_idle()
        for member in self.members.values():
            self.ray.kill(member.actor)
        self.members.clear()

    def _release_idle(self) -> None:
        """Ends the actors that have nothing to do."""
        while self.idle:
            self.ray.kill(self.idle.pop().actor)


def _needs(ray: Any, settings: Ray, make: Any) -> dict[str, float]:
    """The resources of an actor, as options of Ray; an exported model on the CPU needs no GPU."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = settings.gpus
    if gpus is None and getattr(make, "device", None) == "cpu":
        gpus = 0.0
    if gpus is None:
        gpus = float(any(node.get("GPU", 0) >= 1 for node in nodes))
    cpus = settings.cpus
    if cpus is None and gpus:
        cpus = 1.0
    if cpus is None:
        cpus = max(1.0, min(CORES, max(node.get("CPU", 1.0) for node in nodes)))
    return {"num_cpus": cpus, "num_gpus": gpus}


def _with_threads(make: Any, needs: dict[str, float]) -> Callable:
    """`make` with a thread for each core of an actor, unless it has a number of its own."""
    if hasattr(make, "with_threads") and not needs["num_gpus"]:
        return make.with_threads(max(1, int(needs["num_cpus"])))
    return make


def _cause_of(error: Any) -> Exception:
    """The exception of an actor, without Ray's traceback."""
    cause = error.cause
    if isinstance(cause, Exception):
        return cause
    return error

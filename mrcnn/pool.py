"""Ray actors that do the parts of a batch, one for each GPU or several cores, on any machines.

    batch.run(batch.Exported("model.onnx"), ["photos"], "detections", ray=pool.Ray("auto"))

Each actor holds the model and does one part after the other. The pool grows while parts wait and
the cluster has resources, and shrinks when no part is left. A part whose actor died (its process,
its machine) is given to another. The only shared state is the output folder, which all machines
must see under the same path or address, like the model's file and the images. Requires Ray.
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

# How many actors may die of a part before it is given up; the other parts are still done.
ATTEMPTS = 3
# How many actors in a row may die without a finished part in between, besides twice the largest
# size of the pool: all actors of a machine die at once.
DEATHS = 6
# Seconds from one check of the cluster's resources to the next, and until a warning that they are
# not enough for a single actor.
LOOK = 1.0
PATIENCE = 60.0
# Default cores of an actor without a GPU.
CORES = 4.0
# Bytes of the object store of a Ray that is started here; Ray's minimum is 75 MB.
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
        workers: (fewest, most) actors; most is None for as many as the cluster has resources for.
        cpus, gpus: of each actor; None for a GPU and a core where there are GPUs, else CORES cores.

    Raises:
        ValueError: a number out of range.
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
    """Parses (fewest, most) actors from a text such as 2:16, 2: or 4; (1, None) for None.

    Raises:
        ValueError: the text has another form.
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
    """Does parts of a job by actors.

    Args:
        make: f() that makes the model, in each actor.
        job: the job.
        parts: [n] numbers of the parts.
        settings: see `Ray`.

    Yields:
        `batch.Done` of each part when it is done, in any order.

    Raises:
        ImportError: Ray is not installed, or an actor lacks a package.
        ConnectionError: there is no cluster at the address.
        ChildProcessError: actors died repeatedly; finished parts remain.
        Exception: what making the model or doing a part raised.
    """
    ray = import_ray()
    is_started_here = not ray.is_initialized()
    if is_started_here:
        _connect(ray, settings.address)
    pool = _Pool(ray, make, job, settings)
    try:
        yield from pool.done(parts)
    finally:
        pool.end()
        if is_started_here:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    """Starts Ray on this machine, or connects to a cluster."""
    # Ray's logs are long; failures are reported by exceptions here.
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address != "local":
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConnectionError(f"No Ray cluster at {address}: {error}") from error
        return
    # Ray's worker processes must import the same copy of this package.
    root = str(pathlib.Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    # Only small objects go through Ray's store, which takes a third of the memory by default.
    ray.init(address="local", include_dashboard=False, object_store_memory=STORE, **quiet)


@dataclasses.dataclass
class _Member:
    """An actor of the pool.

    Attributes:
        actor: Ray's handle.
        is_ready: whether its model is made.
        part: number of the part that it does; None for none.
    """

    actor: Any
    is_ready: bool = False
    part: int | None = None


class _Pool:
    """A pool of actors, and the parts that they do.

    Args: see `work`; `ray` is the module.
    """

    def __init__(self, ray: Any, make: Callable, job: batch.Job, settings: Ray):
        self.ray = ray
        self.job = job
        self.settings = settings
        self.needs = _needs(ray, settings, make)
        self.make = _with_threads(make, self.needs)
        self.members: dict[Any, _Member] = {}  # {pending call: the actor that executes it}
        self.idle: list[_Member] = []
        self.retries: collections.deque[int] = collections.deque()  # parts whose actor died
        self.deaths: collections.Counter = collections.Counter()  # {part: how many actors died}
        self.deaths_in_a_row = 0
        self.deaths_of_loading = 0  # in a row, before the model was made
        self.largest = 0  # the largest number of actors so far
        self.given_up: list[int] = []  # parts that reached ATTEMPTS deaths
        self.last_death = ""  # text of Ray's error

    def done(self, parts: np.ndarray) -> Iterator[batch.Done]:
        """Does all parts; yields `batch.Done` of each when it is done."""
        untried = iter(parts.tolist())
        remaining = len(parts)
        last_progress = time.monotonic()
        warned = False
        self._grow(remaining)
        while remaining > len(self.given_up):
            self._assign(untried)
            calls = list(self.members)
            ready, _ = self.ray.wait(calls, num_returns=1, timeout=LOOK)
            for call in ready:
                done = self._finish(call)
                if done is not None:
                    remaining -= 1
                    yield done
            if ready or any(member.is_ready for member in self.members.values()):
                last_progress = time.monotonic()
            elif not warned and time.monotonic() - last_progress > PATIENCE:
                warned = True
                logger.warning(
                    "Ray has no room yet for an actor with %s; the cluster has %s",
                    self.needs,
                    self.ray.cluster_resources(),
                )
            self._grow(remaining - len(self.given_up))
        self._release_idle()
        if self.given_up:
            raise ChildProcessError(self._given_up_text())

    # ---- Parts -------------------------------------------------------------------------------

    def _assign(self, untried: Iterator[int]) -> None:
        """Assigns parts to idle actors; ends those for which there is no part."""
        while self.idle:
            part = self._next(untried)
            if part is None:
                break
            member = self.idle.pop()
            member.part = part
            self.members[member.actor.do.remote(part)] = member
        if self.members:
            self._release_idle()

    def _next(self, untried: Iterator[int]) -> int | None:
        """The next part: an untried one, or else one whose actor died; None for none."""
        part = next(untried, None)
        if part is None and self.retries:
            part = self.retries.popleft()
        return part

    def _finish(self, call: Any) -> batch.Done | None:
        """Takes the result of a call; None unless a part is done.

        The call may also have made the actor's model, or the actor may have died.
        """
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
            self.deaths_of_loading = 0
            return None
        member.part = None
        self.deaths_in_a_row = 0
        return done

    def _lose(self, member: _Member, error: Exception) -> None:
        """Counts the death of an actor, and queues its part again or gives it up."""
        self.deaths_in_a_row += 1
        self.last_death = " ".join(str(error).split())[:300]
        logger.warning("An actor died and is replaced: %s", self.last_death)
        if not member.is_ready:
            self.deaths_of_loading += 1
        if member.part is not None:
            self.deaths[member.part] += 1
            if self.deaths[member.part] < ATTEMPTS:
                self.retries.append(member.part)
            else:
                self.given_up.append(member.part)
        limit = DEATHS + 2 * self.largest
        # Parts that are given up have deaths of their own; where no model is made all would wait.
        if self.deaths_of_loading >= limit or (self.deaths_in_a_row >= limit and not self.given_up):
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
        """Starts actors: the fewest, then at most as many more as have their models ready."""
        fewest, most = self.settings.workers
        while self._count() < min(fewest, parts):
            self._start()
        if most is None:
            most = parts
        ready = len(self.idle) + sum(member.is_ready for member in self.members.values())
        # An autoscaling cluster grows only if actors are requested beyond its present resources.
        # That is done only up to a maximum that was set.
        may_exceed = self.settings.workers[1] is not None
        while self._count() < min(most, parts, 2 * ready) and (may_exceed or self._has_room()):
            self._start()

    def _count(self) -> int:
        """How many actors there are."""
        return len(self.members) + len(self.idle)

    def _has_room(self) -> bool:
        """Whether the cluster has the resources for one more actor."""
        free = self.ray.available_resources()
        names = {"num_cpus": "CPU", "num_gpus": "GPU"}
        return all(free.get(names[name], 0) >= need for name, need in self.needs.items())

    def _start(self) -> None:
        """Starts an actor, and the making of its model."""
        # Without Ray's own restarts, which would occupy resources without loading the model.
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
        """Ends the idle actors."""
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

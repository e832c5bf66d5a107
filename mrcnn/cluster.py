"""Training on several devices and machines: the cluster, its messages, the training loop.

Each machine runs the same script. TF_CONFIG (set by hand, or by Kubeflow, Vertex AI, SageMaker) or
the variables of a Slurm job step describe the cluster; with `MRCNN_CLUSTER=none` in the environment
each machine trains alone. The global batch grows with the number of machines: each loads and
computes its share, gradients are averaged, weights stay equal. The first machine, the chief, writes
the files.

`keras.Model.fit` fails under `tf.distribute.MultiWorkerMirroredStrategy` (keras-team/keras #20585);
`fit` here calls the same steps, callbacks and metrics in the same order. Under JAX Keras's works:
the machines form one mesh of devices (`keras.distribution.DataParallel`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

logger = logging.getLogger(__name__)

# Environment variable; with "none" each machine trains alone.
VARIABLE = "MRCNN_CLUSTER"
# The most bytes of a text that `from_chief` sends.
LONGEST = 4096
# Names of TensorFlow's errors after a machine was lost. JAX has one name for all its errors, which
# only their texts tell apart.
LOST = ("UnavailableError", "AbortedError", "DeadlineExceededError", "InternalError")
LOST_BY_JAX = re.compile(r"gloo|nccl|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED", re.IGNORECASE)


class Cluster(NamedTuple):
    """The machines that train together.

    Attributes:
        workers: "host:port" of each machine, the chief first.
        number: index of this machine in `workers`.
        by: what described the cluster: "TF_CONFIG", "Slurm" or "jax.distributed".
    """

    workers: tuple[str, ...]
    number: int
    by: str

    @property
    def is_chief(self) -> bool:
        """Whether this machine is the chief, which writes the files."""
        return self.number == 0

    @property
    def share(self) -> tuple[int, int]:
        """(i, n): this machine's share of a batch, see `data.TrainingBatches`."""
        return self.number, len(self.workers)


def find() -> Cluster | None:
    """The cluster that the environment describes; None for one machine.

    Raises:
        ValueError: TF_CONFIG does not describe a cluster; quotes it.
    """
    if os.environ.get(VARIABLE, "").lower() == "none":
        return None
    cluster = None
    if os.environ.get("TF_CONFIG", "").strip():
        cluster = _of_tf_config(os.environ["TF_CONFIG"])
    elif _is_in_slurm() and keras.backend.backend() != "tensorflow":
        cluster = _of_slurm_by_number()
    elif _is_in_slurm():
        cluster = _of_slurm()
    elif keras.backend.backend() == "jax":
        cluster = _of_processes()
    if cluster is None or len(cluster.workers) == 1:
        return None
    return cluster


def _of_tf_config(text: str) -> Cluster | None:
    """The cluster that TF_CONFIG describes: its chief, if any, and its workers; None for none."""
    expected = (
        'TF_CONFIG is json such as {"cluster": {"worker": ["a:2222", "b:2222"]}, "task":'
        ' {"type": "worker", "index": 0}}.'
    )
    try:
        description = json.loads(text)
        groups = description.get("cluster") or {}
        task = description.get("task") or {}
        kind = task.get("type", "worker")
        index = int(task.get("index", 0))
        chiefs = list(groups.get("chief") or groups.get("master") or [])
        workers = list(groups.get("worker") or [])
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{expected} Received: {text[:200]} ({error})") from error
    if not chiefs and not workers:
        return None
    if kind not in ("chief", "master", "worker"):
        raise ValueError(
            f"{expected} Only a chief and workers train together. Received: the type {kind!r}"
        )
    number = index
    if kind == "worker":
        number += len(chiefs)
    addresses = tuple(map(str, chiefs + workers))
    if not 0 <= index or number >= len(addresses) or len(chiefs) > 1:
        raise ValueError(f"{expected} Received: {text[:200]}")
    return Cluster(addresses, number, "TF_CONFIG")


def _is_in_slurm() -> bool:
    """Whether this process is one of several tasks that srun started."""
    count = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    return count.isdigit() and int(count) > 1 and "SLURM_PROCID" in os.environ


@functools.cache
def _slurm() -> Any:
    """TensorFlow's `SlurmClusterResolver`.

    `auto_set_gpu` is off: it would divide GPUs that Slurm has already assigned to tasks, and number
    them from 0. `_gpus_of_task` chooses them.
    """
    import tensorflow as tf

    # The resolver needs a GPU for each task of a node; no node has more tasks than the step.
    count = int(os.environ["SLURM_STEP_NUM_TASKS"])
    return tf.distribute.cluster_resolver.SlurmClusterResolver(
        gpus_per_node=count, gpus_per_task=1, auto_set_gpu=False
    )


def _of_slurm() -> Cluster:
    """The cluster of a Slurm job step, with the addresses that TensorFlow needs."""
    workers = tuple(_slurm().cluster_spec().job_tasks("worker"))
    hosts = list(dict.fromkeys(worker.rpartition(":")[0] for worker in workers))
    # Slurm orders hosts by number (n9, n10), the resolver alphabetically (n10, n9).
    by_number = sorted(hosts, key=lambda host: [int(n) for n in re.findall(r"\d+", host)])
    if by_number != hosts and len({re.sub(r"\d+", "", host) for host in hosts}) == 1:
        raise ValueError(
            f"TensorFlow counts Slurm's nodes as {', '.join(hosts)}, Slurm as"
            f" {', '.join(by_number)}: set TF_CONFIG in each task, or {VARIABLE}=none to train on"
            " one machine"
        )
    return Cluster(workers, int(os.environ["SLURM_PROCID"]), "Slurm")


def _of_slurm_by_number() -> Cluster:
    """The cluster of a Slurm job step without addresses, which JAX finds by itself."""
    count = int(os.environ["SLURM_STEP_NUM_TASKS"])
    workers = tuple(f"task {number}" for number in range(count))
    return Cluster(workers, int(os.environ["SLURM_PROCID"]), "Slurm")


def _of_processes() -> Cluster | None:
    """The processes that `jax.distributed` or `keras.distribution.initialize` has connected."""
    import jax

    if not jax.distributed.is_initialized():
        return None
    workers = tuple(f"process {number}" for number in range(jax.process_count()))
    return Cluster(workers, jax.process_index(), "jax.distributed")


def _gpus_of_task(cluster: Cluster, gpus: list, count: int) -> list:
    """The `count` GPUs of a machine that this task uses.

    Where all tasks of a Slurm node see all its GPUs, each task uses a different slice of them;
    where Slurm shows a task only its own, the first ones.
    """
    host = cluster.workers[cluster.number].rpartition(":")[0]
    tasks = sum(worker.rpartition(":")[0] == host for worker in cluster.workers)
    local_id = os.environ.get("SLURM_LOCALID", "0")
    first = 0
    if cluster.by == "Slurm" and local_id.isdigit() and len(gpus) >= tasks * count:
        first = int(local_id) * count
    return gpus[first : first + count]


# ---- TensorFlow's strategy -----------------------------------------------------------------------


@functools.cache
def _announce(cluster):
    """Logs the machines and the number of this one, once a process."""
    logger.warning(
        "Worker %d of %d (by %s): %s",
        cluster.number,
        len(cluster.workers),
        cluster.by,
        ", ".join(cluster.workers),
    )


def strategy(cluster: Cluster, count: int) -> Any:
    """The `tf.distribute.MultiWorkerMirroredStrategy` of a cluster; waits for all its machines.

    Args:
        cluster: see `find`.
        count: GPU_COUNT, the number of devices of each machine.

    Raises:
        ValueError: this machine has fewer devices, or TensorFlow is already initialised.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if count > max(1, len(gpus)):
        raise ValueError(
            f"GPU_COUNT is the number of devices of each machine, here {max(1, len(gpus))}."
            f" Received: {count}"
        )
    _announce(cluster)
    try:
        if gpus:
            tf.config.set_visible_devices(_gpus_of_task(cluster, gpus, count), "GPU")
        if cluster.by == "Slurm":
            created = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=_slurm())
        else:
            created = tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise ValueError(
            "A model that trains on several machines is made before TensorFlow computes anything"
            f" in the process. Received: {error}"
        ) from error
    created.mrcnn_cluster = cluster
    return created


# ---- JAX's mesh ----------------------------------------------------------------------------------


def mesh(cluster: Cluster, count: int) -> Any:
    """The `keras.distribution.DataParallel` of a cluster; waits for all its machines.

    Args:
        cluster: see `find`.
        count: GPU_COUNT, the number of devices of each machine.

    Raises:
        ValueError: a machine has fewer devices, or JAX is already initialised.
        ConnectionError: the machines can't connect to each other.
    """
    import jax

    if not jax.distributed.is_initialized():
        _initialize_jax(cluster, count)
    devices = []
    for number, worker in enumerate(cluster.workers):
        of_machine = [device for device in jax.devices() if device.process_index == number]
        if len(of_machine) < count:
            raise ValueError(
                "GPU_COUNT is the number of devices of each machine, at"
                f" {worker} {len(of_machine)}. Received: {count}"
            )
        devices += [f"{device.platform}:{device.id}" for device in of_machine[:count]]
    created = keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
    created.mrcnn_cluster = cluster
    return created


def _initialize_jax(cluster: Cluster, count: int) -> None:
    """Connects this process to the others of a cluster by `jax.distributed`."""
    import jax

    _announce(cluster)
    options: dict[str, Any] = {"cluster_detection_method": "slurm"}
    if cluster.by == "Slurm":
        options["local_device_ids"] = _ids_of_task(count)
    else:
        options = {"coordinator_address": cluster.workers[0]}
        options["cluster_detection_method"] = "deactivate"
    # On CPUs JAX has no collectives of several processes without this.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            num_processes=len(cluster.workers), process_id=cluster.number, **options
        )
    except RuntimeError as error:
        if "must be called before" in str(error):
            raise ValueError(
                "A model that trains on several machines is made before JAX computes anything in"
                f" the process. Received: {error}"
            ) from error
        raise ConnectionError(
            f"Worker {cluster.number} of {len(cluster.workers)} does not find the others,"
            f" {', '.join(cluster.workers)}: {error}"
        ) from error


def _ids_of_task(count: int) -> list[int]:
    """Local ids of the GPUs of a Slurm task, see `_gpus_of_task`; without effect on CPUs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    first = int(os.environ.get("SLURM_LOCALID", "0")) * count
    if visible != [""] and first + count > len(visible):
        first = 0
    return list(range(first, first + count))


def common_seed(strategy: Any, seed: int | None) -> int | None:
    """The seed of new weights; where it is None under JAX, one that all machines agree on.

    Under JAX each machine draws the weights itself.
    """
    is_of_jax = keras.backend.backend() == "jax" and hasattr(strategy, "mrcnn_cluster")
    if seed is not None or not is_of_jax:
        return seed
    from jax.experimental import multihost_utils

    drawn = np.random.default_rng().integers(2**31, dtype=np.int32)
    return int(multihost_utils.broadcast_one_to_all(drawn))


def of(network: Any) -> Cluster | None:
    """The cluster that a network is trained on; None for one machine."""
    strategy = getattr(network, "distribute_strategy", None)
    if strategy is None and hasattr(network, "made_in"):
        strategy = network.made_in.value
    return getattr(strategy, "mrcnn_cluster", None)


def several_devices(network: Any) -> bool:
    """Whether a network is trained on more than one device, of this machine or of several."""
    strategy = getattr(network, "distribute_strategy", None)
    return strategy is not None and strategy.num_replicas_in_sync > 1


def devices_here(network: Any) -> int:
    """How many of a network's devices belong to this machine."""
    machines = 1
    cluster = of(network)
    if cluster is not None:
        machines = len(cluster.workers)
    return network.distribute_strategy.num_replicas_in_sync // machines


# ---- Messages between the machines ---------------------------------------------------------------


def from_chief(network: Any, text: str) -> str:
    """The chief's text, on every machine; all must call it.

    Raises:
        ValueError: the text has more than LONGEST bytes.
    """
    message = np.zeros(LONGEST, np.int32)
    cluster: Any = of(network)
    if cluster.is_chief:
        encoded = text.encode("utf-8", "surrogateescape")
        if len(encoded) > LONGEST:
            raise ValueError(f"At most {LONGEST} bytes go to the others. Received: {len(encoded)}")
        message[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    received = _summed(network, message)
    return bytes(received[received > 0].astype(np.uint8)).decode("utf-8", "surrogateescape")


def check_agreement(network: Any, subject: str, value: Any) -> None:
    """Checks that a value is the same on every machine; all of them must call it.

    Args:
        network: the `Network` that is trained.
        subject: what the value is, for the error.
        value: compared by its `repr`.

    Raises:
        ValueError: a machine has another value; names that machine, and this one's value.
    """
    cluster: Any = of(network)
    digest = hashlib.blake2b(repr(value).encode(), digest_size=3).digest()
    digests = np.zeros(len(cluster.workers), np.int32)
    digests[cluster.number] = 1 + int.from_bytes(digest, "little")
    all_digests = _summed(network, digests)
    others = np.flatnonzero(all_digests != all_digests[0])
    if len(others):
        number = int(others[0])
        raise ValueError(
            f"{subject} is the same on every machine, so the folder of the logs is one that all see"
            f" and the scripts are equal. Worker {number} ({cluster.workers[number]}) has another"
            f" than the chief. Here it is: {value}"
        )


def _summed(network: Any, values: np.ndarray) -> np.ndarray:
    """The sum over all machines of their arrays `values`, of one shape and dtype."""
    if keras.backend.backend() == "jax":
        return _summed_by_jax(network, values)
    import tensorflow as tf

    strategy = network.distribute_strategy
    devices = devices_here(network)

    @tf.function(autograph=False)
    def total(array):
        def of_replica():
            context = tf.distribute.get_replica_context()
            # The copy is on the replica's device; an argument of the function is on none.
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(array))

        return strategy.experimental_local_results(strategy.run(of_replica))[0]

    with naming_the_lost(network):
        return total(tf.constant(values)).numpy() // devices


def _summed_by_jax(network: Any, values: np.ndarray) -> np.ndarray:
    """`_summed` under JAX."""
    from jax.experimental import multihost_utils

    with naming_the_lost(network):
        return multihost_utils.process_allgather(values).sum(0)


def _is_of_a_lost_machine(error: Any) -> bool:
    """Whether TensorFlow or JAX raised this error because another machine was lost."""
    name = type(error).__name__
    if name in ("XlaRuntimeError", "JaxRuntimeError"):
        return LOST_BY_JAX.search(str(error)) is not None
    return name in LOST


class naming_the_lost:  # noqa: N801 (a context manager, read as a phrase)
    """Turns a backend's error of a lost machine into a ConnectionError that names the machine."""

    def __init__(self, network: Any):
        self.cluster = of(network)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, _: Any) -> None:
        if self.cluster is None or not _is_of_a_lost_machine(error):
            return
        # TensorFlow's text begins with the location of the operation in the graph.
        text = " ".join(str(error).split()).rpartition("aborted by: ")[2]
        tasks = [int(number) for number in re.findall(r"/task:(\d+)", text)]
        if len(self.cluster.workers) == 2:
            tasks = [1 - self.cluster.number]
        others = [task for task in tasks if task != self.cluster.number] or tasks
        name = "another machine"
        if others and others[0] < len(self.cluster.workers):
            name = f"worker {others[0]} ({self.cluster.workers[others[0]]})"
        raise ConnectionError(
            f"{name} is gone, or can't be reached: training stopped on this one, worker"
            f" {self.cluster.number}. Start all of them again with the same commands, from"
            f" find_last(), to go on. {keras.backend.backend()} says: {text[:300]}"
        ) from error


# ---- The loop ------------------------------------------------------------------------------------


class Steps:
    """The training and test steps of a network on all its devices, as `tf.function`s.

    Args:
        network: a `training.TrainingModel` made in the scope of a strategy.
        specs: [tf.TensorSpec] of a device's inputs. All machines must trace the same graph, since
            collective operations are numbered as they are traced.
    """

    def __init__(self, network: Any, specs: Sequence[Any]):
        import tensorflow as tf

        self.network = network
        self.strategy = network.distribute_strategy
        self.devices = devices_here(network)
        signature = [tuple(specs)] * self.devices
        options = {"input_signature": signature, "autograph": False}
        self.train = tf.function(self._step(network.train_step), **options)
        self.test = tf.function(self._step(network.test_step), **options)

    def _step(self, function: Callable) -> Callable:
        """A step f(*parts), with a part of the batch for each device of this machine.

        It returns {name: mean over all devices of all machines}.
        """
        import tensorflow as tf

        def step(*parts):
            def of_replica():
                context = tf.distribute.get_replica_context()
                number = tf.get_static_value(context.replica_id_in_sync_group)
                logs = function((parts[int(number) % self.devices],))
                names = sorted(logs)
                values = tf.stack([tf.cast(logs[name], tf.float32) for name in names])
                # A single collective operation for all metrics.
                means = context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
                return dict(zip(names, tf.unstack(means)))

            logs = self.strategy.run(of_replica)
            local = self.strategy.experimental_local_results
            return {name: local(logs[name])[0] for name in logs}

        return step

    def parts(self, inputs: Sequence[np.ndarray]) -> list[tuple]:
        """A machine's batch, arrays [B, ...], as a tuple of arrays for each of its devices."""
        return list(zip(*(np.split(array, self.devices) for array in inputs)))


def fit(
    network: Any,
    batches: Iterator[tuple],
    specs: Sequence[Any],
    initial_epoch: int,
    epochs: int,
    steps_per_epoch: int,
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.CallbackList,
    validation_data: Iterator[tuple] | None = None,
    validation_steps: int = 0,
) -> keras.callbacks.History:
    """`keras.Model.fit` on all devices of the network's strategy.

    On several devices of one machine Keras's own `fit` draws one batch more at each call, which is
    not trained on.

    Args:
        network: compiled.
        batches, validation_data: iterators of (inputs,), this machine's shares.
        specs: see `Steps`.
        initial_epoch, epochs, steps_per_epoch, validation_steps: see `keras.Model.fit`.
        callbacks: of this machine.

    Raises:
        ConnectionError: another machine was lost; names it.
    """
    cluster = of(network)
    steps = Steps(network, specs)
    callback_list = callbacks
    if not isinstance(callback_list, keras.callbacks.CallbackList):
        verbose = int(cluster is None or cluster.is_chief)
        callback_list = keras.callbacks.CallbackList(
            list(callbacks),
            add_history=True,
            add_progbar=bool(verbose),
            verbose=verbose,
            epochs=epochs,
            steps=steps_per_epoch,
            model=network,
        )
    network.stop_training = False
    with naming_the_lost(network):
        callback_list.on_train_begin()
        logs: dict[str, float] = {}
        # The epoch that `keras.callbacks.BackupAndRestore` has restored.
        initial_epoch = getattr(network, "_initial_epoch", None) or initial_epoch
        for epoch in range(initial_epoch, epochs):
            network.reset_metrics()
            callback_list.on_epoch_begin(epoch)
            for step in range(steps_per_epoch):
                callback_list.on_train_batch_begin(step)
                logs = _numbers(steps.train(*steps.parts(next(batches)[0])))
                callback_list.on_train_batch_end(step, logs)
                if network.stop_training:
                    break
            logs = dict(logs)
            if validation_data is not None:
                losses = _validate(network, steps, validation_data, validation_steps, callback_list)
                logs.update({f"val_{name}": value for name, value in losses.items()})
            callback_list.on_epoch_end(epoch, logs)
            if network.stop_training:
                break
        if epochs > initial_epoch:
            network.optimizer.finalize_variable_values(network.trainable_weights)
        callback_list.on_train_end(logs)
        if cluster is not None:
            from_chief(network, "the last checkpoint is written")
    return network.history


def _validate(network, steps, batches, count, callback_list):
    """{name: mean loss} of `count` batches of the validation data."""
    network.reset_metrics()
    callback_list.on_test_begin()
    logs: dict[str, float] = {}
    for step in range(count):
        callback_list.on_test_batch_begin(step)
        logs = _numbers(steps.test(*steps.parts(next(batches)[0])))
        callback_list.on_test_batch_end(step, logs)
    callback_list.on_test_end(logs)
    return logs


def _numbers(logs: dict[str, Any]) -> dict[str, float]:
    """Logs as floats, as callbacks take them."""
    return {name: float(value) for name, value in logs.items()}

"""Training on several machines: two processes on loopback against one with two devices."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import types

import numpy as np
import oracle
import pytest
from toy import Rectangles, ToyConfig

from mrcnn import cluster, data, training

WORKER = oracle.TESTS / "cluster_worker.py"
VARIABLES = ("TF_CONFIG", "MRCNN_CLUSTER", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")


# ---- Who the machines are ------------------------------------------------------------------------


@pytest.fixture
def environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def tf_config(kind="worker", index=0, **groups):
    return json.dumps({"cluster": groups, "task": {"type": kind, "index": index}})


def test_one_machine(environment):
    assert cluster.find() is None
    environment.setenv("TF_CONFIG", " ")
    assert cluster.find() is None
    environment.setenv("TF_CONFIG", "{}")
    assert cluster.find() is None
    environment.setenv("TF_CONFIG", tf_config(worker=["a:1"]))
    assert cluster.find() is None
    environment.setenv("TF_CONFIG", tf_config(worker=["a:1", "b:1"]))
    environment.setenv("MRCNN_CLUSTER", "none")
    assert cluster.find() is None
    environment.delenv("TF_CONFIG")
    environment.delenv("MRCNN_CLUSTER")
    environment.setenv("SLURM_STEP_NUM_TASKS", "1")
    environment.setenv("SLURM_PROCID", "0")
    assert cluster.find() is None


@pytest.mark.parametrize(
    "kind, index, groups, place",
    [
        ("worker", 1, {"worker": ["a:1", "b:2"]}, 1),
        ("chief", 0, {"chief": ["c:3"], "worker": ["a:1"]}, 0),
        ("worker", 0, {"chief": ["c:3"], "worker": ["a:1"]}, 1),
        ("master", 0, {"master": ["c:3"], "worker": ["a:1"]}, 0),
    ],
    ids=["workers", "chief", "beside a chief", "master"],
)
def test_tf_config(environment, kind, index, groups, place):
    environment.setenv("TF_CONFIG", tf_config(kind, index, **groups))
    found = cluster.find()
    assert found.number == place and found.share == (place, 2) and found.by == "TF_CONFIG"
    assert found.is_chief == (place == 0)
    assert found.workers == tuple(groups.get("chief", groups.get("master", []))) + tuple(
        groups["worker"]
    )


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        tf_config("ps", 0, worker=["a:1", "b:1"]),
        tf_config("worker", 2, worker=["a:1", "b:1"]),
        tf_config("worker", -1, worker=["a:1", "b:1"]),
        tf_config("chief", 0, chief=["a:1", "b:1"], worker=["c:1"]),
    ],
    ids=["no json", "a list", "ps", "beyond", "negative", "two chiefs"],
)
def test_a_tf_config_that_is_none(environment, text):
    environment.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=r'TF_CONFIG is json such as \{"cluster"'):
        cluster.find()


def found_in_slurm(environment, nodes, tasks, number):
    for name, value in {
        "SLURM_STEP_NUM_TASKS": str(sum(tasks)),
        "SLURM_PROCID": str(number),
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_TASKS_PER_NODE": ",".join(map(str, tasks)),
        "SLURM_NODELIST": nodes,
        "SLURM_LOCALID": "0",
    }.items():
        environment.setenv(name, value)
    cluster._slurm.cache_clear()
    try:
        return cluster.find()
    finally:
        cluster._slurm.cache_clear()


def test_slurm(environment):
    found = found_in_slurm(environment, "node[01-02]", (2, 1), 2)
    assert found == (("node01:8888", "node01:8889", "node02:8888"), 2, "Slurm")
    # One GPU for each task, whatever Slurm names it; the resolver would rename it.
    environment.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert found_in_slurm(environment, "node[01-02]", (2, 2), 1).number == 1
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_nodes_that_slurm_counts_otherwise_are_refused(environment):
    with pytest.raises(ValueError, match=r"as n10, n9, Slurm as n9, n10: set TF_CONFIG"):
        found_in_slurm(environment, "n[9-10]", (1, 1), 0)


def test_slurm_without_tensorflow(environment):
    """JAX finds the hosts itself; each task takes its own GPUs, or those that it is shown."""
    environment.setattr(cluster.keras.backend, "backend", lambda: "jax")
    environment.setenv("SLURM_LOCALID", "1")
    assert found_in_slurm(environment, "n[9-10]", (2, 1), 1) == (
        ("task 0", "task 1", "task 2"),
        1,
        "Slurm",
    )
    environment.setenv("SLURM_LOCALID", "1")
    for shown, ids in (("", [2, 3]), ("0,1,2,3", [2, 3]), ("4,5", [0, 1])):
        environment.setenv("CUDA_VISIBLE_DEVICES", shown)
        assert cluster._ids_of_task(2) == ids


def test_processes_that_jax_has_joined(environment):
    environment.setattr(cluster.keras.backend, "backend", lambda: "jax")
    joined = types.SimpleNamespace(is_initialized=lambda: False)
    jax = types.SimpleNamespace(
        distributed=joined, process_count=lambda: 3, process_index=lambda: 2
    )
    environment.setitem(sys.modules, "jax", jax)
    assert cluster.find() is None
    joined.is_initialized = lambda: True
    assert cluster.find() == (("process 0", "process 1", "process 2"), 2, "jax.distributed")


def test_a_backend_of_one_machine_refuses(environment):
    environment.setattr(training.keras.backend, "backend", lambda: "torch")
    environment.setenv("TF_CONFIG", tf_config(worker=["a:1", "b:1"]))
    with pytest.raises(ValueError, match=r"TF_CONFIG describes 2 machines.*torch; MRCNN_CLUSTER="):
        training.strategy(1)
    environment.setenv("MRCNN_CLUSTER", "none")
    assert training.strategy(1) is None


def test_gpus_of_a_task(environment):
    """Of four that all tasks see each takes its own; where Slurm shows one, that one."""
    machines = cluster.Cluster(("a:1", "a:2", "b:1", "b:2"), 1, "Slurm")
    environment.setenv("SLURM_LOCALID", "1")
    assert cluster._gpus_of_task(machines, ["0", "1", "2", "3"], 2) == ["2", "3"]
    assert cluster._gpus_of_task(machines, ["0", "1"], 1) == ["1"]
    assert cluster._gpus_of_task(machines, ["0"], 1) == ["0"]
    assert cluster._gpus_of_task(machines._replace(by="TF_CONFIG"), ["0", "1"], 1) == ["0"]


def test_shares_are_the_parts_of_a_batch():
    config = ToyConfig(IMAGES_PER_GPU=2)
    whole = data.TrainingBatches(Rectangles(12), ToyConfig(IMAGES_PER_GPU=6), seed=1)
    shares = [data.TrainingBatches(Rectangles(12), config, seed=1, share=(i, 3)) for i in range(3)]
    for step in range(3):
        ids = whole.image_ids(step)
        assert [each.image_ids(step) for each in shares] == [ids[:2], ids[2:4], ids[4:]]
        inputs = whole.batch(step)[0]
        parts = [each.batch(step)[0] for each in shares]
        for array, *pieces in zip(inputs, *parts):
            np.testing.assert_array_equal(array, np.concatenate(pieces))
    assert sorted(whole.image_ids(0) + whole.image_ids(1)) == list(range(12))
    assert len(shares[0]) == len(whole) == 2


def test_a_lost_machine_is_named():
    network = type("Network", (), {})()
    network.distribute_strategy = type("Strategy", (), {})()
    network.distribute_strategy.mrcnn_cluster = cluster.Cluster(("a:1", "b:2", "c:3"), 1, "x")
    UnavailableError = type("UnavailableError", (Exception,), {})
    text = "/job:worker/replica:0/task:1: can't reach /job:worker/replica:0/task:2"
    expected = pytest.raises(ConnectionError, match=r"^worker 2 \(c:3\) is gone.*find_last")
    expected_of_jax = pytest.raises(ConnectionError, match=r"^worker 1 \(b:2\) is gone")
    with expected, cluster.naming_the_lost(network):
        raise UnavailableError(text)
    with pytest.raises(KeyError), cluster.naming_the_lost(network):
        raise KeyError(text)
    # Of two the other one is meant, whatever the engine says; JAX's other errors stay.
    network.distribute_strategy.mrcnn_cluster = cluster.Cluster(("a:1", "b:2"), 0, "x")
    XlaRuntimeError = type("XlaRuntimeError", (Exception,), {})
    with expected_of_jax, cluster.naming_the_lost(network):
        raise XlaRuntimeError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")
    with pytest.raises(XlaRuntimeError), cluster.naming_the_lost(network):
        raise XlaRuntimeError("INVALID_ARGUMENT: shapes")


# ---- Two processes -------------------------------------------------------------------------------


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def start(folder, names, *arguments):
    """Processes of cluster_worker.py, one for each name, as machines of one cluster if several."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in names]
    processes = []
    for index, name in enumerate(names):
        environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
        environment.update(
            CUDA_VISIBLE_DEVICES="-1",
            PYTHONPATH=os.pathsep.join([str(oracle.TESTS.parent), str(oracle.TESTS)]),
            TF_CPP_MIN_LOG_LEVEL="2",
        )
        if len(names) > 1:
            environment["TF_CONFIG"] = tf_config("worker", index, worker=addresses)
        command = [sys.executable, WORKER, folder, name, *map(str, arguments)]
        processes.append(
            subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def finish(processes, seconds=900):
    """What processes print; each must end well."""
    texts = []
    for process in processes:
        texts.append(process.communicate(timeout=seconds)[0])
        assert process.returncode == 0, texts[-1][-3000:]
    return texts


def first_weights(folder):
    from mrcnn import model as modellib

    model = modellib.MaskRCNN("training", ToyConfig(), folder / "none")
    model.keras_model.save_weights(folder / "first.weights.h5")


@pytest.mark.heavy
def test_two_processes_are_one_with_two_devices(tmp_path):
    """Losses of each step, validation, weights after 10 steps, those of batch norm among them; the
    chief alone writes."""
    first_weights(tmp_path)
    (text,) = finish(start(tmp_path, ["one"], 2))
    # The run of two devices is taken up after its second epoch, and detects three images.
    assert "again 2 3" in text.splitlines()
    alone = np.load(tmp_path / "one.npz")
    assert np.isfinite(alone["history"]).all() and "val_loss" in alone["names"]
    assert (tmp_path / "one.csv").exists()
    time.sleep(1)
    texts = finish(start(tmp_path, ["chief", "other"], 1))
    folders = [line for text in texts for line in text.splitlines() if line.startswith("log_dir")]
    assert len(folders) == 2 and len(set(folders)) == 1
    for name in ("chief", "other"):
        found = np.load(tmp_path / f"{name}.npz")
        assert found["losses"].shape == alone["losses"].shape == (10, 6)
        assert list(found["names"]) == list(alone["names"])
        np.testing.assert_allclose(found["losses"], alone["losses"], atol=1e-5)
        np.testing.assert_allclose(found["history"], alone["history"], atol=1e-5)
        for key in alone:
            if key.startswith("w"):
                np.testing.assert_allclose(found[key], alone[key], atol=1e-5)
    column = list(alone["names"]).index("mrcnn_mask_loss")
    assert alone["history"][column].min() > 0, "no positive RoI: the heads were not tested"
    log_dir = pathlib.Path(folders[0].removeprefix("log_dir "))
    assert len(list(log_dir.glob("mask_rcnn_toy_*.h5"))) == 3  # two epochs, and to go on
    assert json.loads((log_dir / "settings.json").read_text())["NAME"] == "toy"
    assert json.loads((log_dir / "classes.json").read_text())[0] == "BG"
    assert (tmp_path / "chief.csv").exists() and not (tmp_path / "other.csv").exists()


@pytest.mark.heavy
@pytest.mark.slow
def test_a_killed_worker_ends_the_others_and_all_go_on(tmp_path):
    """kill -9: the other says who is gone, within a minute; started again, both go on."""
    arguments = [1, 2, 0.5]
    processes = start(tmp_path, ["chief", "other"], *arguments)
    deadline = time.monotonic() + 900
    steps = tmp_path / "steps_chief"
    while not steps.exists() or len(steps.read_text().splitlines()) < 3:
        assert time.monotonic() < deadline and processes[0].poll() is None
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGKILL)
    processes[1].communicate()
    killed = time.monotonic()
    text = processes[0].communicate(timeout=120)[0]
    assert time.monotonic() - killed < 60
    assert processes[0].returncode != 0
    assert "worker 1 (127.0.0.1:" in text and "is gone" in text
    before = len(steps.read_text().splitlines())
    texts = finish(start(tmp_path, ["chief", "other"], *arguments))
    assert "Taking up the run" in texts[0]
    after = len(steps.read_text().splitlines())
    assert 10 <= after <= 10 + 2 and before < 10  # a step of the last resume file is done again
    weights = [np.load(tmp_path / f"{name}.npz") for name in ("chief", "other")]
    for key in weights[0]:
        if key.startswith("w"):
            np.testing.assert_array_equal(weights[0][key], weights[1][key])

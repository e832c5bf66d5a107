"""mrcnn.pool: batches by actors of Ray, on one node and on two, with kills. `make test-ray` runs it."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image
from stand_in import CLASSES, Recipe, StandIn
from test_batch import (
    ENVIRONMENT,
    TESTS,
    bucket,  # noqa: F401
    by_name,
    check,
    content,
    folder_of,
    rows_by_name,
)

from mrcnn import batch, listing, pool

try:
    import pyarrow  # noqa: F401
    import ray
    from ray.cluster_utils import Cluster
except ImportError:
    ray = None

needs_ray = pytest.mark.skipif(ray is None, reason="no Ray here; make test-ray runs it")
pytestmark = [
    pytest.mark.heavy,
    # Ray warns of its own affairs.
    pytest.mark.filterwarnings("default"),
]
STAND_IN = TESTS / "stand_in.py"


# ---- Whatever is installed -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [(None, (1, None)), ("4", (4, 4)), ("2:16", (2, 16)), ("3:", (3, None))],
)
def test_limits(text, expected):
    assert pool.limits(text) == expected


@pytest.mark.parametrize("text", ["", "x", "2:x", ":4", "-1"])
def test_limits_that_are_none(text):
    with pytest.raises(ValueError, match="workers are MIN:MAX"):
        pool.limits(text)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="workers are 1 or more.*4:2"):
        pool.Ray(workers=(4, 2))
    with pytest.raises(ValueError, match="gpus is 0 or more. Received: -1"):
        pool.Ray(gpus=-1)
    pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match="a model is made in each actor.*StandIn"):
        batch.run(StandIn(), ["a"], "out", identity={}, ray=pool.Ray())


def test_without_ray_one_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "mask-rcnn-keras3\[ray\]"'):
        pool.import_ray()


# ---- With Ray ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, with room for two actors of a core."""
    os.environ["PYTHONPATH"] = ENVIRONMENT["PYTHONPATH"]
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100_000_000,
    )
    yield
    ray.shutdown()


@needs_ray
def test_the_same_files_as_in_one_process(tmp_path, cluster):
    photos = folder_of(tmp_path / "photos", 40)
    (photos / "0007.png").write_bytes(b"no image")
    here = batch.run(Recipe(), [photos], tmp_path / "here", part_size=6)
    there = batch.run(
        Recipe(), [photos], tmp_path / "there", part_size=6, ray=pool.Ray(workers=(1, 2), cpus=1)
    )
    assert (there.images, there.objects, there.errors) == (here.images, here.objects, 1)
    for part in range(7):
        name = batch.part_name(part)
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    # Either goes on with what the other did.
    (tmp_path / "there" / batch.part_name(3)).unlink()
    assert batch.run(Recipe(), [photos], tmp_path / "there").before == 34
    (tmp_path / "here" / batch.part_name(3)).unlink()
    settings = pool.Ray(cpus=1)
    assert batch.run(Recipe(), [photos], tmp_path / "here", ray=settings).before == 34


@needs_ray
def test_ray_data_hands_over_columns(tmp_path, cluster):
    """`map_batches` with actors that hold the model gives what a batch of the files gives."""
    pytest.importorskip("pandas")  # which Ray Data needs
    import ray.data

    photos = folder_of(tmp_path / "photos", 20)
    batch.run(Recipe(), [photos], tmp_path / "out")
    expected = rows_by_name(tmp_path / "out")
    images = ray.data.read_binary_files(str(photos), include_paths=True)
    found = images.map_batches(
        batch.OnColumns, fn_constructor_args=[Recipe()], batch_size=8, concurrency=1
    )
    rows = {pathlib.Path(row["image"]).name: row for row in found.take_all()}
    assert rows.keys() == expected.keys() and len(rows) == 20
    for name, row in rows.items():
        for column in ("height", "class_ids", "class_names", "masks", "error"):
            assert row[column] == expected[name][column], (name, column)
        np.testing.assert_array_equal(row["boxes"], expected[name]["boxes"])
        np.testing.assert_allclose(row["scores"], expected[name]["scores"])


@needs_ray
def test_what_an_actor_raises_is_raised_here(tmp_path, cluster):
    class Broken(Recipe):
        def __call__(self):
            raise FileNotFoundError("No file weights.h5")

    photos = folder_of(tmp_path / "photos", 2)
    with pytest.raises(FileNotFoundError, match=r"^No file weights\.h5$"):
        batch.run(Broken(), [photos], tmp_path / "out", ray=pool.Ray(cpus=1))


@needs_ray
def test_an_image_that_kills_its_actor_is_named_and_the_others_are_done(tmp_path, cluster):
    photos = folder_of(tmp_path / "photos", 12)
    Image.new("RGB", (9, 5), (8, 0, 0)).save(photos / "0005.png")
    settings = pool.Ray(workers=(1, 2), cpus=1)
    with pytest.raises(ChildProcessError, match=r"1 parts were not done.*000002.*0004\.png") as e:
        batch.run(Recipe(), [photos], tmp_path / "out", part_size=2, ray=settings)
    assert "3 actors died" in str(e.value)
    assert sorted(by_name(tmp_path / "out")) == [
        f"{n:04d}.png" for n in range(12) if n not in (4, 5)
    ]


@needs_ray
def test_the_pool_grows_and_shrinks(tmp_path, cluster):
    photos = folder_of(tmp_path / "photos", 12)
    job = batch.prepare(
        tmp_path / "out", [photos], listing.Options(), CLASSES, Recipe().identity(), 1
    )
    members = pool._Pool(ray, Recipe(0.3), job, pool.Ray(workers=(1, None), cpus=1))
    counts = []
    for _ in members.done(np.arange(12)):
        counts.append(members._count())
    assert max(counts) == 2  # there is room for two
    assert members._count() == 0
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 2


def children(pid):
    """Ids of all processes below one."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found += [int(path.parent.name), *children(int(path.parent.name))]
    return found


def actors_below(pid):
    """Ids of the actors that a driver's Ray has started."""
    found = []
    for child in children(pid):
        try:
            title = pathlib.Path(f"/proc/{child}/cmdline").read_text()
        except OSError:
            continue
        if title.startswith("ray::Worker"):
            found.append(child)
    return found


@needs_ray
def test_killed_actors_and_drivers(tmp_path):
    """An actor is killed, then the driver; the job that is started again ends, each image once."""
    photos = folder_of(tmp_path / "photos", 60)
    output = tmp_path / "out"
    command = [sys.executable, STAND_IN, output, ".3", photos, "--part-size=3", "--ray"]
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    wait_for(output, 3, process)
    victims = actors_below(process.pid)
    assert victims
    os.kill(victims[0], signal.SIGKILL)
    wait_for(output, 7, process)
    assert process.poll() is None, "a killed actor does not end the job"
    process.kill()
    process.communicate()
    first = len(list(output.glob("part-*")))
    assert first < 20
    command[3] = "0"
    # Its actors live for some seconds and may end a part; the new driver does not mind.
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    before = int(re.search(r"; (\d+) images were done before", done.stdout)[1])
    assert 3 * first <= before <= 3 * first + 6
    rows = by_name(output)
    assert sorted(rows) == [f"{n:04d}.png" for n in range(60)]
    for number in range(60):
        check(rows[f"{number:04d}.png"], number)


@needs_ray
def test_s3_by_actors(bucket, tmp_path):  # noqa: F811
    """Actors read from an object store and write their parts there."""
    system, options = bucket
    for number in range(8):
        with system.open_output_stream(f"photos/{number}.png") as file:
            file.write(content(number, tmp_path))
    output = f"s3://photos/out{options}"
    command = [sys.executable, STAND_IN, output, "0", f"s3://photos/*.png{options}", "--ray"]
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(
        [*command, "--part-size=2"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert system.get_file_info("photos/out/part-000003.parquet").size
    rows = by_name(output)
    assert sorted(rows) == [f"{n}.png" for n in range(8)]
    for number in range(8):
        check(rows[f"{number}.png"], number)


def wait_for(output, count, process=None, seconds=90):
    """Waits until there are so many parts."""
    deadline = time.monotonic() + seconds
    while len(list(output.glob("part-*"))) < count:
        assert process is None or process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.05)


@needs_ray
def test_a_node_that_dies(tmp_path):
    """Of two nodes on loopback one is killed with its actor: the other does the rest."""
    os.environ["PYTHONPATH"] = ENVIRONMENT["PYTHONPATH"]
    ray.shutdown()
    photos = folder_of(tmp_path / "photos", 40)
    output = tmp_path / "out"
    nodes = Cluster()
    small = {"num_cpus": 1, "object_store_memory": 80_000_000}
    try:
        nodes.add_node(**small)
        second = nodes.add_node(**small)
        nodes.wait_for_nodes()
        ray.init(address=nodes.address, log_to_driver=False)
        settings = pool.Ray("auto", (2, 2), cpus=1)
        found = []
        thread = threading.Thread(
            target=lambda: found.append(
                batch.run(Recipe(0.3), [photos], output, part_size=2, ray=settings)
            )
        )
        thread.start()
        wait_for(output, 4)
        nodes.remove_node(second, allow_graceful=False)
        thread.join(120)
        assert found and found[0].images == 40
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert sorted(by_name(output)) == [f"{n:04d}.png" for n in range(40)]

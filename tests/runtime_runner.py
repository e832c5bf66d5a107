"""Detects by exported models where there is no TensorFlow; test_runtimes.py starts it.

python runtime_runner.py FOLDER
    FOLDER has job.json, {"FILE": ["IMAGE", ...]}, and images.npz; FILE.npz, the results, are
    written: of image i "i/rois" and so on, "i/rle" as json.
"""

import concurrent.futures
import importlib.util
import json
import pathlib
import sys

import numpy as np

from mrcnn import masks, runtime
from mrcnn.masks import Masks


def check_environment():
    for name in ("tensorflow", "keras", "skimage", "scipy", "pycocotools", "h5py", "matplotlib"):
        assert importlib.util.find_spec(name) is None, f"{name} is installed"
    # numpy and the runtimes are enough.
    for name in ("PIL", "onnx", "tf2onnx", "starlette", "uvicorn"):
        sys.modules[name] = None


def arrays_of(i, result, lazy, code):
    found = {f"{i}/{name}": result[name] for name in ("rois", "class_ids", "scores")}
    if "keypoints" in result:
        found[f"{i}/keypoints"] = result["keypoints"]
    if result["masks"] is not None:
        assert isinstance(lazy["masks"], Masks)
        np.testing.assert_array_equal(np.asarray(lazy["masks"]), result["masks"])
        found[f"{i}/masks"] = np.packbits(result["masks"], axis=-1)
        found[f"{i}/count"] = result["masks"].shape[-1]
        found[f"{i}/rle"] = json.dumps(code["masks"])
    return found


def check_threads(model, images, expected):
    """Four threads detect at once, each on images of its own; each gets its own results."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: model.detect([image], masks="rle")[0], images * 2))
    for result, alone in zip(found, expected * 2):
        np.testing.assert_allclose(result["scores"], alone["scores"], atol=1e-4)
        np.testing.assert_array_equal(result["class_ids"], alone["class_ids"])
    many = list(model.detect_many(iter(images), masks="rle"))
    assert [len(result["scores"]) for result in many] == [len(r["scores"]) for r in expected]


def is_large(path):
    """Of a ResNet-50 six times the detections would be minutes; small files have shown the rest."""
    files = [path, path.with_suffix(".bin")]
    return max(file.stat().st_size for file in files if file.exists()) > 50_000_000


def forms_of(lazy):
    """The results with masks in each form, of those with lazy ones."""
    dense = [{**result, "masks": np.asarray(result["masks"])} for result in lazy]
    codes = [{**result, "masks": masks.in_form(result["masks"], "rle")} for result in lazy]
    return [dense, lazy, codes]


def main(folder):
    check_environment()
    folder = pathlib.Path(folder)
    images = np.load(folder / "images.npz")
    for file, names in json.loads((folder / "job.json").read_text()).items():
        model = runtime.load(folder / file, threads=2)
        if model.shape[0] is None:
            model.config.BATCH_SIZE = 2
        chosen = [images[name] for name in names]
        if is_large(folder / file):
            forms = forms_of(model.detect(chosen, masks="lazy"))
        else:
            forms = [model.detect(chosen, masks=form) for form in ("dense", "lazy", "rle")]
            check_threads(model, chosen, forms[2])
        found = {"class_names": model.class_names, "version": model.metadata.version}
        for i, results in enumerate(zip(*forms)):
            found.update(arrays_of(i, *results))
        np.savez(folder / f"{file}.npz", **found)
    assert "tensorflow" not in sys.modules and "keras" not in sys.modules


if __name__ == "__main__":
    main(sys.argv[1])

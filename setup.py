"""Packaging of mrcnn: Mask R-CNN for Keras 3 and TensorFlow."""
import pathlib

from setuptools import setup

HERE = pathlib.Path(__file__).parent

setup(
    name="mask-rcnn-keras3",
    version="0.1.0",
    description="Mask R-CNN (arXiv 1703.06870) for Keras 3 and TensorFlow, with matterport's API",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=["mrcnn"],
    python_requires=">=3.11,<3.14",
    install_requires=(HERE / "requirements.txt").read_text().split(),
    extras_require={"test": ["pytest", "pytest-xdist", "hypothesis"], "tensorboard": ["tensorboard"]},
)

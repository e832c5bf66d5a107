"""Mask R-CNN for Keras 3 and TensorFlow, with the API of matterport/Mask_RCNN."""

__version__ = "0.2.0"

"""A model without a network, for tests and benchmarks of what lies around one.

It finds one object in an image that is not black: what is not black, of the class of its brightest
channel (1 red, 2 green, 3 blue), with the largest value / 255 as its score.

python stand_in.py OUTPUT SECONDS INPUT... [--part-size N] [--ray]
    a batch with it, SECONDS for each image
"""

import argparse
import time

import numpy as np

CLASSES = ["BG", "red", "green", "blue"]


class StandIn:
    """Detects; images whose first pixel is 7 are refused, of 8 the process ends, of 9 all fails."""

    class_names = CLASSES

    def __init__(self, seconds=0.0, many=True):
        self.seconds = seconds
        self.seen = 0
        if many:
            self.detect_many = self._detect_many

    def detect(self, images, masks="dense"):
        from mrcnn.masks import encode_crops

        assert masks == "rle"
        results = []
        for image in images:
            self.seen += 1
            time.sleep(self.seconds)
            first = int(image[0, 0, 0])
            if first == 7:
                raise ValueError("an image that begins with 7")
            if first == 8:
                import os

                os._exit(1)
            if first == 9:
                raise RuntimeError("an image that begins with 9")
            rows, columns = np.nonzero(image.any(-1))
            boxes = np.zeros((0, 4), np.int32)
            codes = []
            class_ids = []
            scores = []
            if len(rows):
                boxes = [[rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]]
                y1, x1, y2, x2 = boxes[0]
                crop = image[y1:y2, x1:x2].any(-1)
                codes = encode_crops([(boxes[0], crop)], image.shape)
                class_ids = [1 + int(image.max((0, 1)).argmax())]
                scores = [image.max() / 255]
            results.append(
                {
                    "rois": np.array(boxes, np.int32).reshape(-1, 4),
                    "class_ids": np.array(class_ids, np.int32),
                    "scores": np.array(scores, np.float32),
                    "masks": codes,
                }
            )
        return results

    def _detect_many(self, items, load=None, masks="dense"):
        # Two ahead, as a real one, so that images wait without a result where it stops.
        ahead = []
        for image in items:
            ahead.append(image)
            if len(ahead) > 2:
                yield self.detect([ahead.pop(0)], masks)[0]
        while ahead:
            yield self.detect([ahead.pop(0)], masks)[0]


class Recipe:
    """Makes one, also in an actor."""

    class_names = CLASSES

    def __init__(self, seconds=0.0, weights="1"):
        self.seconds = seconds
        self.weights = weights

    def __call__(self):
        return StandIn(self.seconds)

    def identity(self):
        return {"weights": self.weights}


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("output")
    parser.add_argument("seconds", type=float)
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--part-size", type=int)
    parser.add_argument("--ray", action="store_true")
    args = parser.parse_args(arguments)
    from mrcnn import batch

    ray = None
    if args.ray:
        from mrcnn import pool

        ray = pool.Ray(workers=(2, 2), cpus=1)
    print(
        batch.run(Recipe(args.seconds), args.inputs, args.output, part_size=args.part_size, ray=ray)
    )


if __name__ == "__main__":
    # By its name: actors of Ray can't find what lies in __main__.
    import stand_in

    stand_in.main()

"""An exported model as an HTTP service: takes image files, returns COCO json, batches requests.

    import uvicorn
    from mrcnn import runtime, serving

    uvicorn.run(serving.application(runtime.load("model.onnx")), port=8000)

    curl --data-binary @photo.jpg http://localhost:8000/detect

`application` returns an ASGI application, for uvicorn, hypercorn, granian or Ray Serve's ingress.
Simultaneous requests run together, images of one size as one batch. The response to an image that
can't be read is 400, to a body or an image that is too large 413, and 500 if the model fails, each
with {"error": reason}; other requests aren't affected. samples/serve.py is a command for it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import tempfile
from typing import Any

import numpy as np

from mrcnn import coco, data, evaluate, runtime, utils

logger = logging.getLogger(__name__)

BATCH = 4  # images in a batch
WAIT = 0.005  # seconds that the first image of a batch waits for others
BODY = 20_000_000  # largest body of a request in bytes
PIXELS = 25_000_000  # largest image in pixels

# First bytes of PostScript files, without and with a preview.
POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")

# A body that is too large is still read, up to this many times the limit, and discarded: a client
# whose connection is closed while it sends gets a broken pipe instead of the response.
DROPPED = 10


class TooLarge(ValueError):
    """A body of more bytes, or an image of more pixels, than the server accepts."""


class Gone(Exception):
    """The client has closed the connection."""


# ---- Batches -------------------------------------------------------------------------------------


class Batcher:
    """Collects images for a short time and detects on them together.

    Args:
        model: of `runtime.load`.
        most: largest number of images in a batch.
        wait: seconds that the first image waits for others.

    Attributes:
        batches: number of images in each of the last thousand batches.
    """

    def __init__(self, model: runtime.Model, most: int, wait: float):
        model.config.BATCH_SIZE = most
        self.model = model
        self.most = most
        self.wait = wait
        self.batches: list[int] = []
        self._waiting: asyncio.Queue = asyncio.Queue()
        self._task: asyncio.Task | None = None  # runs `run`

    async def detect(self, image: np.ndarray) -> dict:
        """The result of one image; raises only errors of `Model.detect` for this image."""
        self.start()
        answer = asyncio.get_running_loop().create_future()
        await self._waiting.put((image, answer))
        return await answer

    def start(self) -> asyncio.Task:
        """The task of `run` in the current event loop; starts it if there is none.

        Servers start it through `lifespan`. For an application that is mounted in another one, or
        served with `--lifespan off`, the first request starts it.
        """
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._waiting = asyncio.Queue()  # a queue belongs to one event loop
            self._task = loop.create_task(self.run())
        return self._task

    async def run(self) -> None:
        """Runs batches of the waiting images until the task is cancelled."""
        self._task = asyncio.current_task()
        waiting = self._waiting
        while True:
            entries = [await waiting.get()]
            await asyncio.sleep(self.wait)
            while len(entries) < self.most and not waiting.empty():
                entries.append(waiting.get_nowait())
            entries = [entry for entry in entries if not entry[1].cancelled()]
            if entries:
                self.batches = [*self.batches[-999:], len(entries)]
                await self._answer(entries)

    async def _answer(self, entries):
        images = [image for image, _ in entries]
        results: list[Any]
        try:
            results = await asyncio.to_thread(self.model.detect, images, "lazy")
        except Exception as error:  # any error of a runtime: later batches must still run
            if len(entries) > 1:  # find the image at fault by running each alone
                for entry in entries:
                    await self._answer([entry])
                return
            results = [error]
        for (_, answer), result in zip(entries, results):
            if answer.cancelled():
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)


# ---- Requests ------------------------------------------------------------------------------------


async def body_of(request: Any, limit: int) -> bytes:
    """The body of a starlette request.

    Raises:
        TooLarge: it has more than `limit` bytes; the rest was read and discarded.
        Gone: the client disconnected.
    """
    from starlette.requests import ClientDisconnect

    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size <= limit:
                parts.append(part)
            else:
                parts.clear()
            if size > DROPPED * limit:
                break
    except ClientDisconnect as error:
        raise Gone from error
    if size > limit:
        raise TooLarge(f"A body has at most {limit} bytes")
    return b"".join(parts)


def image_of(body: bytes, pixels: int = PIXELS, all_bands: bool = False) -> np.ndarray:
    """The image [H, W, 3] uint8 of a file's bytes, in any format that `utils.read_image` reads.

    Args:
        body: the bytes.
        pixels: largest image in pixels.
        all_bands: see `utils.read_image`.

    Raises:
        TooLarge: it has more than `pixels`. The size is checked before the image is decoded, as a
            small file may hold a huge image.
        ValueError: not an image, or an incomplete one.
    """
    if body.startswith(POSTSCRIPT):
        # Pillow would run it in Ghostscript.
        raise ValueError("the body is PostScript, a program; no image is made of it")
    handle, path = tempfile.mkstemp(prefix="image")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body)  # that the disk is full is no fault of the image
        try:
            _check_size(path, pixels)
            return utils.read_image(path, all_bands=all_bands)
        except TooLarge:
            raise
        except (ValueError, OSError) as error:
            raise ValueError(str(error).replace(path, "the body")) from error
    finally:
        os.remove(path)


def _check_size(path, pixels):
    """TooLarge for an image file whose header has a size of more than `pixels`."""
    try:
        height, width = utils.image_sizes(path)[0]
    except utils.TooManyPixels as error:
        reason = error.__cause__ or error  # the cause doesn't name the temporary file
        raise TooLarge(f"An image has at most {pixels} pixels: {reason}") from error
    except Exception:  # `utils.read_image` will raise an error that describes it
        return
    if height * width > pixels:
        raise TooLarge(f"An image has at most {pixels} pixels. Received: {width} x {height}")


def answer_of(image: np.ndarray, result: dict, class_names: list[str]) -> dict[str, list]:
    """A result as COCO's json: images, annotations with scores, categories.

    Category ids are the class ids, or COCO's ids if the classes are COCO's.

    Args:
        image: [H, W, 3] uint8.
        result: of `Model.detect`.
        class_names: by class id, background first.
    """
    height, width = image.shape[:2]
    ids = coco.category_ids_of(class_names) or {i: i for i in range(1, len(class_names))}
    return {
        "images": [{"id": 1, "height": height, "width": width}],
        "annotations": evaluate.coco_results(1, result, ids),
        "categories": [{"id": ids[i], "name": class_names[i]} for i in ids],
    }


# ---- The application -----------------------------------------------------------------------------


def application(
    model: runtime.Model,
    batch: int = BATCH,
    wait: float = WAIT,
    limit: int = BODY,
    pixels: int = PIXELS,
) -> Any:
    """A starlette application that serves a model.

    POST /detect takes an image file as the body, GET /batches returns the numbers of images in the
    last batches.

    Args:
        model: of `runtime.load`.
        batch: largest number of images in a batch.
        wait: seconds that the first image of a batch waits for others.
        limit: largest body in bytes.
        pixels: largest image in pixels.

    Raises:
        ImportError: starlette is not installed.
        ValueError: a number that is too small.
    """
    for name, value, least in (("batch", batch, 1), ("limit", limit, 1), ("pixels", pixels, 1)):
        if value < least:
            raise ValueError(f"{name} is a whole number from {least}. Received: {value!r}")
    if not 0 <= wait <= 60:
        raise ValueError(f"wait is between 0 and 60 seconds. Received: {wait!r}")
    try:
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise ImportError(
            f'Serving needs starlette: pip install starlette uvicorn, or "mask-rcnn-keras3[serve]"'
            f" ({error})"
        ) from error
    batcher = Batcher(model, batch, wait)
    all_bands = data.takes_bands(model.config)

    async def answer(request):
        body = await body_of(request, limit)
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise ValueError(
                "The body is an image file itself, not a form: curl --data-binary @FILE"
            )
        image = await asyncio.to_thread(image_of, body, pixels, all_bands)
        result = await batcher.detect(image)
        return await asyncio.to_thread(answer_of, image, result, model.class_names)

    async def detect(request):
        try:
            return JSONResponse(await answer(request))
        except Gone:
            return Response(status_code=400)  # nobody receives it
        except TooLarge as error:
            return JSONResponse({"error": str(error)}, 413)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        except Exception as error:
            logger.exception("%s failed at an image", model.path)
            return JSONResponse({"error": f"{type(error).__name__}: {error}"}, 500)

    async def batches(_):
        return JSONResponse({"batches": batcher.batches})

    @contextlib.asynccontextmanager
    async def lifespan(_):
        task = batcher.start()
        yield
        task.cancel()

    routes = [Route("/detect", detect, methods=["POST"]), Route("/batches", batches)]
    return Starlette(routes=routes, lifespan=lifespan)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a serving command: those of `runtime.load` and of `application`."""
    parser.add_argument("model", help=".onnx, .xml or .tflite file, or folder of a SavedModel")
    parser.add_argument("--threads", type=int, metavar="N", help="of a detection")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=BATCH, metavar="N", help="images at a time")
    parser.add_argument("--wait", type=float, default=WAIT, help="seconds for others to come")
    parser.add_argument("--limit", type=int, default=BODY, metavar="BYTES", help="of a body")
    parser.add_argument("--pixels", type=int, default=PIXELS, metavar="N", help="of an image")
    parser.add_argument("--traceback", action="store_true", help="where an error came from")

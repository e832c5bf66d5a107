"""Serves an exported model by HTTP: an image's bytes in, COCO json out.

    pip install onnxruntime pillow starlette uvicorn
    python samples/serve.py model.onnx --port=8000
    curl --data-binary @photo.jpg http://localhost:8000/detect

Requests that come together run together: images of one size as one batch. An image that can't be
read is answered 400, a body or an image that is too large 413; nothing else suffers from either.
"""

import argparse
import asyncio
import contextlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # the project's folder

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route
except ImportError as error:
    raise SystemExit(f"error: no {error.name} here: pip install starlette uvicorn") from error

from mrcnn import commands, evaluate, runtime, utils  # noqa: E402


class Batcher:
    """Collects images for `wait` seconds, at most `most` of them, and detects on them together."""

    def __init__(self, model: runtime.Model, most: int, wait: float):
        model.config.BATCH_SIZE = most
        self.model = model
        self.most = most
        self.wait = wait
        self.waiting: asyncio.Queue = asyncio.Queue()
        self.batches: list[int] = []  # how many images each of the last batches had

    async def detect(self, image):
        """The result of one image."""
        answer = asyncio.get_running_loop().create_future()
        await self.waiting.put((image, answer))
        return await answer

    async def run(self):
        """Answers what waits, for as long as the server lives."""
        while True:
            entries = [await self.waiting.get()]
            await asyncio.sleep(self.wait)
            while len(entries) < self.most and not self.waiting.empty():
                entries.append(self.waiting.get_nowait())
            self.batches = [*self.batches[-999:], len(entries)]
            await self._answer(entries)

    async def _answer(self, entries):
        images = [image for image, _ in entries]
        try:
            results = await asyncio.to_thread(self.model.detect, images, "lazy")
        except Exception as error:
            if len(entries) > 1:  # which of them is at fault shows when each runs alone
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


async def body_of(request: Request, limit: int) -> bytes | None:
    """The body of a request, None as soon as it is larger than `limit` bytes."""
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            return None
        parts.append(part)
    return b"".join(parts)


class TooLarge(ValueError):
    """An image of more pixels than the server takes."""


def size_of(path: str) -> tuple[int, int]:
    """(height, width) that an image file claims to have; zeros if it can't be read."""
    try:
        return utils.image_sizes(path)[0]
    except Exception:  # `utils.read_image` says what is wrong with it
        return 0, 0


def read(body: bytes, pixels: int):
    """The image [H, W, 3] of a file's bytes, of whatever kind `utils.read_image` reads.

    A small file may hold a huge image: its size is looked at before it is decoded.
    """
    handle, path = tempfile.mkstemp(prefix="image")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body)
        height, width = size_of(path)
        if height * width > pixels:
            raise TooLarge(f"An image has at most {pixels} pixels. Received: {width} x {height}")
        return utils.read_image(path)
    except TooLarge:
        raise
    except (ValueError, OSError) as error:
        raise ValueError(str(error).replace(path, "the body")) from error
    finally:
        os.remove(path)


def application(model: runtime.Model, most: int, wait: float, limit: int, pixels: int) -> Starlette:
    """The server; most, wait: see `Batcher`; limit: bytes of a body; pixels: of an image."""
    batcher = Batcher(model, most, wait)
    categories = [{"id": i, "name": name} for i, name in enumerate(model.class_names) if i]

    async def detect(request):
        body = await body_of(request, limit)
        if body is None:
            return JSONResponse({"error": f"A body has at most {limit} bytes"}, 413)
        try:
            image = await asyncio.to_thread(read, body, pixels)
            result = await batcher.detect(image)
        except TooLarge as error:
            return JSONResponse({"error": str(error)}, 413)
        except (ValueError, OSError) as error:
            return JSONResponse({"error": str(error)}, 400)
        height, width = image.shape[:2]
        annotations = await asyncio.to_thread(evaluate.coco_results, 1, result)
        images = [{"id": 1, "height": height, "width": width}]
        return JSONResponse(
            {"images": images, "annotations": annotations, "categories": categories}
        )

    async def batches(_):
        return JSONResponse({"batches": batcher.batches})

    @contextlib.asynccontextmanager
    async def lifespan(_):
        task = asyncio.create_task(batcher.run())
        yield
        task.cancel()

    routes = [Route("/detect", detect, methods=["POST"]), Route("/batches", batches)]
    return Starlette(routes=routes, lifespan=lifespan)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help=".onnx, .xml or .tflite file, or folder of a SavedModel")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, help="of a detection")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=4, help="images at a time")
    parser.add_argument("--wait", type=float, default=0.005, help="seconds for others to come")
    parser.add_argument("--limit", type=int, default=20_000_000, help="bytes of a body")
    parser.add_argument("--pixels", type=int, default=25_000_000, help="pixels of an image")
    args = parser.parse_args(arguments)
    model = runtime.load(args.model, args.threads, args.device)
    served = application(model, args.batch, args.wait, args.limit, args.pixels)
    uvicorn.run(served, host=args.host, port=args.port, log_level="warning")


if __name__ == "__main__":
    commands.run(main)

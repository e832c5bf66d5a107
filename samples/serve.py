"""Serves an exported model by HTTP: an image's bytes in, COCO json out.

    pip install onnxruntime pillow starlette uvicorn
    python samples/serve.py model.onnx --port=8000
    curl --data-binary @photo.jpg http://localhost:8000/detect

What a request gets, and how requests run together, is in `mrcnn.serving`.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # the project's folder

from mrcnn import commands, runtime, serving  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    serving.add_options(parser)
    args = parser.parse_args(arguments)
    if not 0 <= args.port <= 65535:
        parser.error(f"--port is a whole number from 0 to 65535. Received: {args.port}")
    try:
        import uvicorn
    except ImportError as error:
        raise ImportError(f"Serving needs uvicorn: pip install uvicorn ({error})") from error
    model = runtime.load(args.model, args.threads, args.device)
    served = serving.application(model, args.batch, args.wait, args.limit, args.pixels)
    uvicorn.run(served, host=args.host, port=args.port, log_level="warning")


if __name__ == "__main__":
    commands.run(main)

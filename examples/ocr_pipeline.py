"""Three neural networks that read a picture together, each served and scaled on its own.

    pip install . 'rapidocr>=3.10,<4' onnxruntime    # in a clone of Pointsman
    python examples/ocr_pipeline.py                  # reads a screenshot of this clone
    python examples/ocr_pipeline.py receipt.jpg

    picture -> detector (where is text?) -> each line: orientation (upside down?) -> reader (what does it say?)

The networks are those of PP-OCR, as the package rapidocr ships them. The pipeline is a backend like the others, with
handles of the three. It asks for all lines of a picture at once, so that they are read in batches. It reads the
picture as it is, and upside down. docs/examples/ocr.md explains the program.
"""

import asyncio
import io
import json
import sys
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import rapidocr
from PIL import Image

import pointsman as serve

MODELS = Path(rapidocr.__file__).parent / "models"
SCREENSHOT = Path(__file__).resolve().parents[1] / "docs/screenshots/sign-in-light-narrow.png"


class Network:
    """One of the package's networks, on one thread."""

    def __init__(self, pattern):
        (path,) = MODELS.glob(pattern)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, pictures):
        """Numbers from 0 to 255, (pictures, height, width, 3); gives the network's output."""
        scaled = np.asarray(pictures, dtype=np.float32).transpose(0, 3, 1, 2) / 127.5 - 1.0
        return self.session.run(None, {self.session.get_inputs()[0].name: scaled})[0]


class Detector:
    """Where is text? A picture in, (left, top, right, bottom) of each line out, from top to bottom."""

    def __init__(self):
        self.network = Network("*det*.onnx")

    def __call__(self, request):
        picture = request.body()
        height, width = picture.shape[:2]
        scaled = cv2.resize(picture, (-(-width // 32) * 32, -(-height // 32) * 32))
        probable = cv2.resize(self.network([scaled])[0, 0], (width, height))
        count, _, areas, _ = cv2.connectedComponentsWithStats((probable > 0.3).astype(np.uint8))
        boxes = []
        for left, top, wide, high, size in areas[1:count].tolist():
            if min(wide, high) > 5:
                grow = int(1.6 * size / (2 * (wide + high)))  # the network marks the core of each line
                boxes.append((max(0, left - grow), max(0, top - grow), left + wide + grow, top + high + grow))
        return sorted(boxes, key=lambda box: box[1])


class Orientation:
    """Is a line upside down? Pictures of lines in, True or False for each out."""

    def __init__(self):
        self.network = Network("*cls*.onnx")

    @serve.accept_batch
    def __call__(self, requests):
        lines = [fitted(request.body(), 192) for request in requests]
        return [bool(upside_down > 0.5) for _, upside_down in self.network(lines)]


class Reader:
    """What does a line say? Pictures of lines in, the text of each out."""

    def __init__(self):
        self.network = Network("*rec*.onnx")
        characters = self.network.session.get_modelmeta().custom_metadata_map["character"].splitlines()
        self.characters = ["", *characters, " "]

    @serve.accept_batch
    def __call__(self, requests):
        lines = [request.body() for request in requests]
        width = max(-(-48 * line.shape[1] // line.shape[0]) for line in lines)
        best = self.network([fitted(line, width) for line in lines]).argmax(axis=2)
        return [self.text(indices) for indices in best]

    def text(self, indices):
        """One index per step of the network: the same twice in a row is one character, 0 is none."""
        changed = np.concatenate(([True], indices[1:] != indices[:-1]))
        return "".join(self.characters[index] for index in indices[changed]).strip()


def fitted(line, width):
    """A line's picture, 48 pixels high and at most ``width`` wide, with grey behind it up to that."""
    scaled = cv2.resize(line, (min(width, max(1, 48 * line.shape[1] // line.shape[0])), 48))
    picture = np.full((48, width, 3), 127.5, dtype=np.float32)
    picture[:, : scaled.shape[1]] = scaled
    return picture


class Pipeline:
    """Reads a picture: PNG, JPEG or the like in, its lines out."""

    def __init__(self):
        client = serve.connect()
        self.detector = client.get_handle("detector", sync=False)
        self.orientation = client.get_handle("orientation", sync=False)
        self.reader = client.get_handle("reader", sync=False)

    async def __call__(self, request):
        picture = np.asarray(Image.open(io.BytesIO(await request.body())).convert("RGB"))
        boxes = await (await self.detector.remote(picture))
        return await asyncio.gather(*(self.read(picture[top:bottom, left:right]) for left, top, right, bottom in boxes))

    async def read(self, line):
        if await (await self.orientation.remote(line)):
            line = line[::-1, ::-1]
        return await (await self.reader.remote(line))


def upside_down(path):
    """The picture turned by 180 degrees, as PNG."""
    png = io.BytesIO()
    Image.open(path).convert("RGB").rotate(180).save(png, "PNG")
    return png.getvalue()


def main():
    path = Path(sys.argv[1]) if sys.argv[1:] else SCREENSHOT
    with serve.start(http_options={"port": 0}) as client:
        client.deploy("detector", Detector)
        client.deploy("orientation", Orientation, config={"max_batch_size": 8})
        client.deploy("reader", Reader, config={"max_batch_size": 8, "num_replicas": 2})  # it has most of the work
        client.deploy("pipeline", Pipeline, route="/read", methods=["POST"])
        for title, picture in (("as it is", path.read_bytes()), ("upside down", upside_down(path))):
            with urllib.request.urlopen(f"{client.http_address}/read", data=picture) as answer:
                print(f"{path.name}, {title}:", *json.load(answer), sep="\n  ")


if __name__ == "__main__":
    main()

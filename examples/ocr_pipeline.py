"""Three neural networks that read an image together, each served and scaled on its own.

    pip install . 'rapidocr>=3.10,<4' onnxruntime    # in a clone of Pointsman
    python examples/ocr_pipeline.py

    image -> detector (where is text?) -> each line: orientation (upside down?) -> reader (what does it say?) -> lines

The networks are those of PP-OCR as the package rapidocr ships them, run by ONNX Runtime on one thread each. The
pipeline is a backend like the others: it holds handles of the three. It asks for all lines of an image at once, so
orientation and reader get them, and those of other images, in batches. The reader does most of the work and has two
replicas.

The image is drawn here: four lines, one of them upside down. Its text is asked for over HTTP and checked.
"""

import argparse
import asyncio
import importlib.util
import io
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

try:
    import cv2
    import numpy as np
    import onnxruntime
    from PIL import Image, ImageDraw, ImageFont

    MODELS = Path(importlib.util.find_spec("rapidocr").submodule_search_locations[0], "models")
except (ImportError, AttributeError) as error:
    missing = getattr(error, "name", None)
    sys.exit(f"this example needs {missing if isinstance(error, ImportError) else 'rapidocr'}:"
             " pip install 'rapidocr>=3.10,<4' onnxruntime")  # fmt: skip

import pointsman as serve

LINES = ("POINTSMAN", "sets the points", "for 4711 trains", "on the right track")
UPSIDE_DOWN = 2
"""Which of the lines is drawn standing on its head."""
LINE_HEIGHT, FONT_SIZE, MARGIN = 80, 40, 40


class Network:
    """One of the package's networks."""

    def __init__(self, pattern):
        (path,) = MODELS.glob(pattern)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, pixels):
        """Pixels as numbers from 0 to 255, (images, height, width, 3); gives the network's output."""
        scaled = np.asarray(pixels, dtype=np.float32).transpose(0, 3, 1, 2) / 127.5 - 1.0
        return self.session.run(None, {self.session.get_inputs()[0].name: scaled})[0]


class Detector:
    """Where is text? An image in, (left, top, right, bottom) of each line out, from top to bottom."""

    def __init__(self):
        self.network = Network("*det*.onnx")

    def __call__(self, request):
        image = request.body()
        height, width = image.shape[:2]
        scaled = cv2.resize(image, (-(-width // 32) * 32, -(-height // 32) * 32))
        probable = cv2.resize(self.network(scaled[None])[0, 0], (width, height))
        count, _, areas, _ = cv2.connectedComponentsWithStats((probable > 0.3).astype(np.uint8))
        boxes = []
        for left, top, wide, high, size in areas[1:count]:
            if min(wide, high) > 5:
                grow = int(1.6 * size / (2 * (wide + high)))  # the network marks the core of each line
                boxes.append((max(0, left - grow), max(0, top - grow), left + wide + grow, top + high + grow))
        return sorted(([int(edge) for edge in box] for box in boxes), key=lambda box: box[1])


class Orientation:
    """Does a line stand on its head? Pictures of lines in, True or False for each out."""

    def __init__(self):
        self.network = Network("*cls*.onnx")

    @serve.accept_batch
    def __call__(self, requests):
        pictures = [fitted(request.body(), 192) for request in requests]
        return [bool(upside_down > 0.5) for _, upside_down in self.network(pictures)]


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
    """A line's picture, 48 pixels high and at most ``width`` wide, with black behind it up to that."""
    scaled = cv2.resize(line, (min(width, max(1, 48 * line.shape[1] // line.shape[0])), 48))
    picture = np.full((48, width, 3), 127.5, dtype=np.float32)
    picture[:, : scaled.shape[1]] = scaled
    return picture


class Pipeline:
    """Reads an image: PNG or the like in, its lines out."""

    def __init__(self):
        client = serve.connect()
        self.detector, self.orientation, self.reader = (
            client.get_handle(name, sync=False) for name in ("detector", "orientation", "reader")
        )

    async def __call__(self, request):
        image = np.asarray(Image.open(io.BytesIO(await request.body())).convert("RGB"))
        boxes = await (await self.detector.remote(image))
        return await asyncio.gather(*(self.read(image[top:bottom, left:right]) for left, top, right, bottom in boxes))

    async def read(self, line):
        if await (await self.orientation.remote(line)):
            line = line[::-1, ::-1]
        return await (await self.reader.remote(line))


def draw():
    """The image, as PNG."""
    font = ImageFont.load_default(FONT_SIZE)
    page = Image.new("RGB", (480, LINE_HEIGHT * len(LINES)), "white")
    for number, text in enumerate(LINES):
        strip = Image.new("RGB", (page.width, LINE_HEIGHT), "white")
        ImageDraw.Draw(strip).text((MARGIN, (LINE_HEIGHT - FONT_SIZE) // 2), text, "black", font)
        page.paste(strip.rotate(180) if number == UPSIDE_DOWN else strip, (0, LINE_HEIGHT * number))
    png = io.BytesIO()
    page.save(png, "PNG")
    return png.getvalue()


def ask(address, png):
    """The lines that the pipeline reads, as JSON text."""
    with urllib.request.urlopen(f"{address}/read", data=png) as answer:
        return answer.read().decode()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=20, help="how many images are read at once, after the first")
    options = parser.parse_args()
    with serve.start(http_options={"port": 0}) as client:
        client.deploy("detector", Detector)
        client.deploy("orientation", Orientation, config={"max_batch_size": 8})
        client.deploy("reader", Reader, config={"max_batch_size": 8, "num_replicas": 2})
        client.deploy("pipeline", Pipeline, route="/read", methods=["POST"])

        png = draw()
        read = ask(client.http_address, png)
        print(f"read: {read}")
        stages = client.status()["backends"].items()
        print("replicas: " + ", ".join(f"{name} {stage['replicas_running']}" for name, stage in stages))
        began = time.monotonic()
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: ask(client.http_address, png), range(options.images)))
        print(f"{options.images / (time.monotonic() - began):.1f} images/s, all alike: {set(answers) <= {read}}")
    expected = "[" + ",".join(f'"{line}"' for line in LINES) + "]"
    if read != expected:
        sys.exit(f"read {read} instead of {expected}")


if __name__ == "__main__":
    main()

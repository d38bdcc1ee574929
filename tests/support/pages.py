"""The page of a server in a real browser: models to try, what a user does, and what the browser complains of."""

import functools
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright
from sklearn.datasets import load_digits

from tests.support import raw_media, raw_rows
from tests.support.onnx_models import product, two_inputs, write_artifact

TIMEOUT_MS = 20_000
DIGITS = [str(digit) for digit in range(10)]

MARKUP = "<img src=x onerror='document.title = 1'>"
"""A label that would be an element, if it were taken for markup."""

Point = tuple[float, float]
SEVEN: Sequence[Sequence[Point]] = [[(0.25, 0.15), (0.75, 0.15), (0.45, 0.88)]]
ZERO: Sequence[Sequence[Point]] = [
    [(0.5 + 0.24 * np.sin(turn), 0.5 - 0.38 * np.cos(turn)) for turn in np.linspace(0, 2 * np.pi, 24)]
]
"""Digits as strokes of points, from 0 to 1."""


def write_models(root: Path) -> None:
    """Two tables in two versions each, texts, pictures, digits, labels like markup, two inputs, and a model whose only version cannot be loaded."""
    for name in ("churn", "offers"):
        raw_rows.write(root, name, 1)
        raw_rows.write(root, name, 2, shift=1.0)
        (root / name / "rollout.json").write_text('{"labels": {"stable": 1, "canary": 2}, "split": {"canary": 1}}')
    raw_media.write_texts(root)
    raw_media.write_pictures(root)
    write_digits(root)
    write_artifact(root, "markup", labels=[MARKUP, "<b>two</b>", "&three;"])
    write_artifact(root, "pair", model=two_inputs(), golden=False)
    picture, _ = raw_media.picture_files()["png"]
    (root / "churn" / "1" / "learning-curves.png").write_bytes(picture)
    (root / "broken" / "1").mkdir(parents=True)
    (root / "broken" / "1" / "model.onnx").write_bytes(b"no network")


def write_digits(root: Path, send: str = "8x8 pixels, ink from 0 (none) to 16 (full)") -> None:
    """A linear classifier of handwritten digits, input [rows, 64] from 0 to 16, fitted by least squares.

    Args:
        root: the folder of models.
        send: what the card says to send.
    """
    digits = load_digits()
    pixels = digits.data.astype(np.float64)
    targets = np.eye(10)[digits.target]
    weights = np.linalg.solve(pixels.T @ pixels + 100 * np.eye(64), pixels.T @ targets) * 10
    inputs = {"input": pixels[:8].astype(np.float32)}
    write_artifact(root, "digits", model=product(weights.astype(np.float32)), inputs=inputs, labels=DIGITS)
    card = root / "digits" / "1" / "card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"input": {"name": "input", "send": send}}))


def write_crowd(root: Path, count: int) -> None:
    """So many models with a version each, made of one small file."""
    content = product(np.eye(3, dtype=np.float32)).SerializeToString()
    for number in range(count):
        folder = root / f"model-{number:04}" / "1"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(content)


@contextmanager
def browsing(program: str) -> Iterator[Browser]:
    """A headless browser, which ends with the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """A tab that shows the page, and what the browser complained of.

    Attributes:
        page: the tab.
        complaints: errors and warnings of its console, and exceptions.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)

    def hear(self, said: ConsoleMessage) -> None:
        """Keep what the console has to complain of."""
        if said.type in ("error", "warning"):
            self.complaints.append(said.text)

    def requests(self, part: str) -> list[Request]:
        """A list of the requests from now on whose URL has this part."""
        found: list[Request] = []

        def keep(request: Request) -> None:
            if part in request.url:
                found.append(request)

        self.page.on("request", keep)
        return found

    def show(self, model: str) -> None:
        """Select a model as a link does."""
        self.page.evaluate("hash => { location.hash = hash; }", f"#/{model}")
        self.page.wait_for_selector(f"main h1:text-is('{model.partition('/')[0]}')")
        self.page.wait_for_selector(".tryit")

    def predict(self) -> None:
        """Press the button."""
        self.page.click(".tryit button:text-is('Predict')")

    def answers(self, count: int = 1) -> list[str]:
        """The labels answered, after so many are there."""
        self.page.wait_for_function(
            "count => document.querySelectorAll('.answer .headline').length === count", arg=count
        )
        return self.page.locator(".answer .headline").all_inner_texts()

    def shares(self) -> dict[str, str]:
        """The probabilities of the first answer, by label, as they are written."""
        bars = self.page.locator(".answer").first.locator(".bars li")
        names, values = bars.locator(".bar-name").all_inner_texts(), bars.locator(".bar-value").all_inner_texts()
        return dict(zip(names, values, strict=True))

    def draw(self, strokes: Sequence[Sequence[Point]]) -> None:
        """Draw strokes with the mouse."""
        box = self.page.locator("canvas.drawing").bounding_box()
        assert box is not None
        mouse = self.page.mouse
        for stroke in strokes:
            places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
            mouse.move(*places[0])
            mouse.down()
            for place in places[1:]:
                mouse.move(*place, steps=3)
            mouse.up()


@contextmanager
def visiting(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:
    """The page in a tab of its own context, until it has shown a model."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
    try:
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        visit = Visit(page)
        page.on("console", visit.hear)
        page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        page.goto(url)
        page.wait_for_selector("main h1, main .error")
        yield visit
    finally:
        context.close()


class _Site(BaseHTTPRequestHandler):
    def __init__(self, html: bytes, *args: Any) -> None:
        self._html = html
        super().__init__(*args)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(self._html)))
        self.end_headers()
        self.wfile.write(self._html)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def another_site(html: str) -> Iterator[str]:
    """A site of somebody else with one page; gives its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Site, html.encode())) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            # Another host name, so that a browser takes it for another site.
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()

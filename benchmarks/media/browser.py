"""The browser: Chromium with the benchmark's page, built from its sources and the TypeScript client's."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
SDK = ROOT / "sdk" / "js"
CLIP = ROOT / "console" / "clip" / "clip.webm"
PAGE = Path(__file__).parent / "page" / "main.ts"
TIMEOUT_MS = 60_000

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--autoplay-policy=no-user-gesture-required",
]
HTML = b"<!doctype html><meta charset=utf-8><title>bench</title><body><script type=module src=/main.js></script>"


def chromium() -> str:
    """Where the browser is. Raises RuntimeError if it is not installed."""
    path = shutil.which("chromium")
    if path is None:
        raise RuntimeError("chromium is not installed: apt-get install chromium")
    return path


def _build() -> bytes:
    """The page as one script. Raises RuntimeError if it cannot be built."""
    if shutil.which("npm") is None:
        raise RuntimeError("npm is not installed: apt-get install nodejs npm")
    if not (SDK / "node_modules" / ".bin" / "esbuild").exists():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=SDK, check=True)
    command = [str(SDK / "node_modules" / ".bin" / "esbuild"), str(PAGE), "--bundle", "--format=esm"]
    command += ["--target=es2022", f"--alias:rtcbridge={SDK / 'src' / 'index.ts'}"]
    with tempfile.TemporaryDirectory(prefix="rtcbridge-bench-") as folder:
        out = Path(folder) / "main.js"
        done = subprocess.run([*command, f"--outfile={out}"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"the page cannot be built: {done.stderr.strip()}")
        return out.read_bytes()


class Bench:
    """The page's functions."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def call(self, name: str, *arguments: Any) -> Any:
        """Call `bench.name(...)` in the page and return what it resolves to."""
        script = f"arguments => bench.{name}(...arguments)"
        return self._page.evaluate(script, list(arguments))

    def wait(self, seconds: float) -> None:
        """Let the page go on for so long."""
        self._page.wait_for_timeout(seconds * 1000)


@contextmanager
def _serving(files: dict[str, tuple[str, bytes]]) -> Iterator[str]:
    """Serve these on a free port of this machine; gives the origin.

    A real server, and not an answer put in by Playwright: a page that came from nowhere may not connect to
    this machine (Local Network Access).
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, body = files.get(self.path, ("", b""))
            self.send_response(200 if kind else 404)
            self.send_header("Content-Type", kind or "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def bench() -> Iterator[Bench]:
    """Open the page. It may use the camera, as the page of someone who has allowed it.

    Without that permission Chromium hides its addresses behind names of multicast DNS, and the time to the first
    frame would be that of a name server.
    """
    files = {
        "/": ("text/html", HTML),
        "/main.js": ("text/javascript", _build()),
        "/clip.webm": ("video/webm", CLIP.read_bytes()),
    }
    with _serving(files) as origin, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        context.grant_permissions(["camera", "microphone"], origin=origin)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(f"{origin}/")
        page.wait_for_function("() => window.bench !== undefined")
        try:
            yield Bench(page)
        finally:
            browser.close()

"""A small client for a real headless Chromium, over the DevTools protocol: pages, scripts, keys, screenshots.

    async with Browser.start() as browser, browser.page(width=1440, height=900) as page:
        await page.open("http://127.0.0.1:8090/")
        await page.until("document.title.includes('Drift')")

Whatever a page logs as an error or warning, throws, or asks from elsewhere is kept in `complaints` and `requests`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run", "--mute-audio",
    "--no-default-browser-check", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--disable-default-apps", "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb",
    "--disable-features=Translate,MediaRouter,OptimizationHints", "about:blank",
)  # fmt: skip
START_S = 30.0
CALL_S = 30.0


def chromium() -> str | None:
    """Path of a Chromium on this machine, from CHROMIUM or the usual names."""
    return os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One running browser with a profile of its own, gone with the context."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def start(cls):
        program = chromium()
        if program is None:
            raise FileNotFoundError("no Chromium; set CHROMIUM or install the package chromium")
        profile = Path(tempfile.mkdtemp(prefix="browser-"))
        process = await asyncio.create_subprocess_exec(
            program, *FLAGS, f"--user-data-dir={profile}",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            address = await _address(profile)
            async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
                connection = Connection(socket)
                reader = asyncio.create_task(connection.read())
                yield cls(connection)
                reader.cancel()
        finally:
            await _end(process)
            shutil.rmtree(profile, ignore_errors=True)

    @asynccontextmanager
    async def page(self, *, width=1440, height=900, dark=False, scale=1, mobile=False):
        """A fresh page in a context of its own (no storage shared)."""
        call = self._connection.call
        context = (await call("Target.createBrowserContext"))["browserContextId"]
        target = await call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self._connection, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.call(f"{domain}.enable")
        await page.size(width, height, scale=scale, mobile=mobile)
        await page.dark(on=dark)
        try:
            yield page
        finally:
            await call("Target.disposeBrowserContext", browserContextId=context)


class Connection:
    """The one websocket: numbered calls out, answers and events in."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._waiting: dict[int, asyncio.Future] = {}
        self.listeners: dict[str, Page] = {}

    async def call(self, method, session=None, /, **parameters):
        self._number += 1
        number = self._number
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        await self._socket.send_json({**message, "sessionId": session} if session else message)
        answer = await asyncio.wait_for(future, CALL_S)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    async def read(self):
        async for message in self._socket:
            document = json.loads(message.data)
            if "id" in document:
                future = self._waiting.pop(document["id"], None)
                if future is not None and not future.done():
                    future.set_result(document)
            elif (page := self.listeners.get(document.get("sessionId", ""))) is not None:
                page.hear(document["method"], document["params"])


class Page:
    """One tab."""

    def __init__(self, connection: Connection, session: str) -> None:
        self._connection = connection
        self._session = session
        connection.listeners[session] = self
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._loaded = asyncio.Event()

    async def call(self, method, **parameters):
        return await self._connection.call(method, self._session, **parameters)

    def hear(self, method, parameters):
        if method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in {"error", "warning", "assert"}:
            self.complaints.append(
                " ".join(str(part.get("value", part.get("description"))) for part in parameters["args"])
            )
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in {"error", "warning"}:
            entry = parameters["entry"]
            self.complaints.append(f"{entry['text']} {entry.get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded.set()

    async def open(self, url):
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        await asyncio.wait_for(self._loaded.wait(), CALL_S)

    async def script(self, expression):
        """The value of a JavaScript expression; promises are waited for."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"].get("exception", {}).get("description", expression))
        return answer["result"].get("value")

    async def until(self, expression, *, timeout_s=15.0):
        """Wait until an expression is true; returns its value."""
        deadline = time.monotonic() + timeout_s
        while not (value := await self.script(expression)):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout_s} s: {expression}; complaints: {self.complaints}")
            await asyncio.sleep(0.03)
        return value

    async def text(self, selector):
        """What a person can read in the first match."""
        return await self.script(f"document.querySelector({json.dumps(selector)})?.innerText ?? null")

    async def click(self, selector):
        """Press the middle of the first match with a real pointer."""
        box = await self.script(
            f"(() => {{ const n = document.querySelector({json.dumps(selector)}); n.scrollIntoView({{block: 'center', behavior: 'instant'}});"
            " const r = n.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        await self.pointer("mouseMoved", *box)
        await self.pointer("mousePressed", *box)
        await self.pointer("mouseReleased", *box)

    async def pointer(self, kind, x, y):
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    async def key(self, key, text=None):
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **({"text": text} if text else {}))
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)

    async def write(self, text):
        await self.call("Input.insertText", text=text)

    async def size(self, width, height, *, scale=1, mobile=False):
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )

    async def dark(self, *, on):
        features = [{"name": "prefers-color-scheme", "value": "dark" if on else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def offline(self, *, on):
        await self.call(
            "Network.emulateNetworkConditions", offline=on, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )

    async def screenshot(self, path, *, full=False):
        """Write a PNG; `full`: the whole page and not only what fits the window."""
        answer = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        Path(path).write_bytes(base64.b64decode(answer["data"]))  # noqa: ASYNC240  # a test may block


async def _address(profile):
    """Where the browser listens: it writes so into its profile."""
    port_file = profile / "DevToolsActivePort"
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        lines = port_file.read_text().split("\n") if port_file.exists() else []
        if len(lines) >= 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        await asyncio.sleep(0.05)
    raise TimeoutError(f"Chromium did not listen within {START_S} s")


async def _end(process):
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()

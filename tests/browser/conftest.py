"""What drives the page: a `rawws serve` process, and Debian's Chromium through its own chromedriver.

The browser is started once. Each test has a server of its own, and fails when the console has an entry that
it did not announce, violations of the Content-Security-Policy among them. Where Chromium, chromedriver or
selenium is missing the tests skip, or fail when RAWWS_REQUIRE_BROWSER is 1. RAWWS_SCREENSHOTS names a folder:
there the tests leave pictures of the page.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # a container's root has none
    "--disable-gpu",
    "--disable-dev-shm-usage",  # 64 MB in a container, which is too little
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_INSTALL = "install Debian's chromium and chromium-driver, and selenium with pip"
_SERVER_AWAY = re.compile(
    r"net::ERR_(CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE|INTERNET_DISCONNECTED)"
    r"|Unexpected response code: 503"  # the old server, which still shuts down in order
    r"|responded with a status of (426|503)"  # the page asks a server that refuses it why
)


class Server:
    """`rawws serve` as a process of its own, on a port that stays the same when it is started again."""

    def __init__(self, *options: str) -> None:
        self._options = options
        self._port = 0
        self._process: subprocess.Popen[str] | None = None
        self.url = ""
        self.start()

    def command(self) -> list[str]:
        return [sys.executable, "-m", "rawws", "serve", "--port", str(self._port), *self._options]

    def start(self) -> None:
        """Start it, and wait until it has printed its address."""
        process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.search(r"https?://[^\s/]+:(\d+)/", line):
                self.url = match[0]
                self._port = int(match[1])
                self._process = process
                return
        process.communicate()
        pytest.fail(f"the server ended with status {process.returncode} before it printed its address")

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop it, in order or with SIGKILL, and wait for its end. Stopping a stopped one does nothing."""
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(timeout=20)
        finally:
            self._process.kill()
            self._process.communicate()
            self._process = None


class Page:
    """The page of one server in the browser, in the words of a person who uses it."""

    def __init__(self, driver: Chrome, server: Server) -> None:
        self.driver = driver
        self.server = server
        self.server_goes_away = False
        """Whether the test stops the server: the browser then logs each request that failed for it."""

    def open(self) -> Page:
        self.driver.get(self.server.url)
        self.wait_for_status("Connected")
        return self

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element("css selector", selector)

    def js(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def cdp(self, command: str, **parameters: object) -> Any:
        """Send a command of the Chrome DevTools Protocol."""
        return self.driver.execute_cdp_cmd(command, parameters)

    def before_scripts(self, source: str) -> str:
        """Run a script in every document from now on before its own ones; the result ends it again."""
        identifier: str = self.cdp("Page.addScriptToEvaluateOnNewDocument", source=source)["identifier"]
        return identifier

    def enter(self, name: str, room: str) -> Page:
        """Open the page and join a room of the chat under a name."""
        self.driver.get(self.server.url)
        self.wait_for(lambda: self.find("#status").text, "the script")
        self.join(name, room)
        return self

    def join(self, name: str, room: str) -> None:
        """Fill in the form of the room, as somebody with any keyboard would, and wait until one is in."""
        self.js(
            """const [name, room] = arguments;
            document.querySelector("#name").value = name;
            document.querySelector("#room").value = room;
            document.querySelector("#choice").requestSubmit();""",
            name,
            room,
        )
        self.wait_for(lambda: self.people and self.status == "Connected", f"the people of {room!r}")

    @property
    def people(self) -> list[str]:
        """The list of the people in the room."""
        names: list[str] = self.js("return [...document.querySelectorAll('#people > li')].map(li => li.textContent)")
        return names

    @property
    def said(self) -> list[tuple[str, str]]:
        """Who said what, as the list shows it, what is pending at its end."""
        pairs: list[list[str]] = self.js(
            """return [...document.querySelectorAll("#messages > li:not(.note)")].map((li) => {
                const [by, ...text] = li.childNodes;
                return [by.textContent, text.map((node) => node.textContent).join("")];
            })"""
        )
        return [(by, text) for by, text in pairs]

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.said]

    def count(self, selector: str) -> int:
        """How many elements there are."""
        return len(self.driver.find_elements("css selector", selector))

    @property
    def field(self) -> WebElement:
        return self.find("#messageText")

    @property
    def typed(self) -> str:
        return str(self.field.get_property("value"))

    @property
    def status(self) -> str:
        return str(self.find("#status").get_property("textContent"))

    @property
    def hint(self) -> str:
        return self.find("#hint").text

    @property
    def messages(self) -> list[str]:
        """The text of each list item, as it is in the document."""
        texts: list[str] = self.js("return [...document.querySelectorAll('#messages > li')].map(li => li.textContent)")
        return texts

    def send(self, text: str) -> None:
        """Type a text and press the button."""
        self.field.send_keys(text)
        self.find("#composer button").click()

    def submit(self, *texts: str) -> None:
        """Send texts that a keyboard cannot type, or too many to type."""
        self.js(
            """const field = document.querySelector("#messageText");
            for (const text of arguments[0]) { field.value = text; field.form.requestSubmit(); }""",
            texts,
        )

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.driver, 15, poll_frequency=0.02).until(lambda _: condition(), f"waited for {what}")

    def wait_for_status(self, pattern: str) -> None:
        self.wait_for(lambda: re.fullmatch(pattern, self.status), f"the status {pattern!r}")

    def wait_for_messages(self, *texts: str) -> None:
        self.wait_for(lambda: self.messages == list(texts), f"the messages {texts!r}")

    def set_screen(self, width: int, height: int, scheme: str = "light", *, phone: bool = False) -> None:
        """Show the page on a screen of this size in CSS pixels, in the light or dark scheme."""
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def set_motion(self, motion: str) -> None:
        """Have a person who prefers less motion, "reduce", or does not, "no-preference"."""
        features = [{"name": "prefers-reduced-motion", "value": motion}]
        self.cdp("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, name: str) -> None:
        """Keep a picture, if anybody asked for pictures."""
        if folder := os.environ.get("RAWWS_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.js("for (const animation of document.getAnimations()) animation.finish()")
            self.driver.save_screenshot(os.path.join(folder, f"{name}.png"))

    def console(self) -> list[str]:
        """What the console has got since the last call, without the failures that the test expects."""
        entries = [str(entry["message"]) for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]
        return [entry for entry in entries if not (self.server_goes_away and _SERVER_AWAY.search(entry))]


def _missing() -> str:
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if importlib.util.find_spec("selenium") is None:
        missing.append("selenium")
    return ", ".join(missing)


def _require(missing: str, install: str) -> None:
    """Skip where something is missing, or fail where nothing may be."""
    if missing:
        if os.environ.get("RAWWS_REQUIRE_BROWSER") == "1":
            pytest.fail(f"missing: {missing}; {install}")
        pytest.skip(f"missing: {missing}; {install}")


def start_chromium(profile: Path) -> Chrome:
    _require(_missing(), _INSTALL)
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    options.accept_insecure_certs = True
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    # With the driver's path given, selenium has no reason to look for one on the network.
    return Chrome(options=options, service=ChromeService(executable_path=shutil.which("chromedriver")))


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One Chromium with an empty profile for all tests."""
    chrome = start_chromium(tmp_path_factory.mktemp("chromium"))
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def other_driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Another one, of somebody else."""
    chrome = start_chromium(tmp_path_factory.mktemp("chromium"))
    yield chrome
    chrome.quit()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, the accessibility checker, from build/npm; npm fetches it when it is missing."""
    folder = Path(__file__).parents[2] / "build" / "npm"
    source = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not source.exists() and (npm := shutil.which("npm")):
        subprocess.run([npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), "axe-core"], check=False)
    _require("" if source.exists() else "axe-core", "run `npm install --prefix build/npm axe-core`")
    return source.read_text(encoding="utf-8")


@pytest.fixture
def server(driver: Chrome) -> Iterator[Server]:
    """A server with the default options; asks for the browser first, since without one nothing is tested."""
    server = Server()
    yield server
    server.stop(signal.SIGKILL)


@pytest.fixture
def page(driver: Chrome, server: Server) -> Iterator[Page]:
    """The page, not opened yet; afterwards its console must be empty."""
    yield from _page(driver, server)


@pytest.fixture
def other(other_driver: Chrome, server: Server) -> Iterator[Page]:
    """The page in somebody else's browser."""
    yield from _page(other_driver, server)


def _page(driver: Chrome, server: Server) -> Iterator[Page]:
    page = Page(driver, server)
    page.console()
    yield page
    unexpected = page.console()
    # A later server may get the same port, and with it what the page has remembered.
    page.js("try { localStorage.clear(); sessionStorage.clear(); } catch {}")
    driver.get("about:blank")
    page.cdp("Emulation.clearDeviceMetricsOverride")
    page.cdp("Emulation.setEmulatedMedia", features=[])
    assert unexpected == []

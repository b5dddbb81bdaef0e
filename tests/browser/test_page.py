"""The bundled page in a real Chromium, as a person meets it: by keyboard, on a phone, on a bad network."""

from __future__ import annotations

import re
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trustme

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome
    from tests.browser.conftest import Page

pytestmark = pytest.mark.browser

ENTER = "\ue007"  # WebDriver's code of the Enter key
TAB = "\ue004"
LINE = ("line", "\ue008\ue007\ue008")  # and Shift+Enter; the second Shift lets go

SCREENS = [
    pytest.param(320, 640, True, id="small-phone"),
    pytest.param(360, 740, True, id="phone"),
    pytest.param(390, 844, True, id="large-phone"),
    pytest.param(740, 360, True, id="phone-on-its-side"),
    pytest.param(1280, 800, False, id="desktop"),
]

# The page's only other timers of this kind are the bound of 10 s on an attempt, and 1 s until a connection is steady.
IS_RETRY = "delay !== 10_000 && delay !== 1_000"
NO_RETRY_BY_ITSELF = f"""
    const original = setTimeout;
    window.setTimeout = (run, delay) => {IS_RETRY} ? 0 : original(run, delay);
"""
EIGHT_RETRIES_AT_ONCE = f"""
    const original = setTimeout;
    window.delays = [];
    window.setTimeout = (run, delay) => {{
        if ({IS_RETRY}) {{
            if (delays.push(delay) === 8) return 0;
            delay = 0;
        }}
        return original(run, delay);
    }};
"""


@contextmanager
def script_before(page: Page, source: str) -> Iterator[None]:
    identifier = page.before_scripts(source)
    try:
        yield
    finally:
        page.cdp("Page.removeScriptToEvaluateOnNewDocument", identifier=identifier)


class TestSending:
    def test_hello_comes_back_as_one_list_item(self, page: Page) -> None:
        page.open()
        assert page.messages == []
        page.send("hello")
        page.wait_for_messages("Received:hello")
        assert page.typed == ""

    def test_the_enter_key_sends_like_the_button(self, page: Page) -> None:
        page.open()
        page.field.send_keys("one" + ENTER)
        page.wait_for_messages("Received:one")
        page.send("two")
        page.wait_for_messages("Received:one", "Received:two")

    def test_all_works_by_keyboard_alone(self, page: Page) -> None:
        page.open()
        page.js("document.activeElement.blur()")
        body = page.find("body")
        seen = []
        for _ in range(9):
            body.send_keys(TAB)
            seen.append(page.js("return document.activeElement.id || document.activeElement.localName"))
            body = page.driver.switch_to.active_element
            style = page.js("return {...getComputedStyle(arguments[0])}", body)
            assert (style["outlineStyle"], style["outlineWidth"]) == ("solid", "2px")
        assert seen == ["name", "room", "button", "a", "a", "people", "log", "messageText", "button"]
        page.field.send_keys("by keyboard" + TAB)
        page.driver.switch_to.active_element.send_keys(ENTER)
        page.wait_for_messages("Received:by keyboard")
        assert page.driver.switch_to.active_element == page.field

    @pytest.mark.parametrize(
        "text",
        [
            "<b>bold</b><img src=x onerror=alert(1)><script>alert(2)</script>",
            "&lt;&amp;",
            "  spaces   stay  ",
            "שלום \u202eabc\u202c 👩‍👩‍👧‍👦 \N{COMBINING ACUTE ACCENT}",
            "w" * 4096,
        ],
        ids=["markup", "entities", "spaces", "unicode", "long-word"],
    )
    def test_any_text_stays_text(self, page: Page, text: str) -> None:
        page.open().submit(text)
        page.wait_for_messages(f"Received:{text}")
        kinds = page.js("return [...document.querySelector('#messages > li').childNodes].map(node => node.nodeName)")
        assert kinds == ["#text"]

    def test_nothing_is_sent_while_the_field_is_empty(self, page: Page) -> None:
        page.open()
        page.find("#composer button").click()
        assert page.hint == "Write something first."
        page.send("x")
        page.wait_for_messages("Received:x")
        assert page.hint == ""

    def test_the_list_keeps_the_newest_500(self, page: Page) -> None:
        page.open().submit(*map(str, range(520)))
        page.wait_for(lambda: page.messages[-1:] == ["Received:519"], "the last message")
        assert page.messages == [f"Received:{number}" for number in range(20, 520)]

    def test_the_log_follows_new_messages_unless_someone_scrolled_up(self, page: Page) -> None:
        page.set_motion("reduce")
        page.open().submit(*map(str, range(100)))
        page.wait_for(lambda: len(page.messages) == 100, "100 messages")
        log = page.find("#log").rect
        last = page.find("#messages > :last-child").rect
        assert log["y"] < last["y"] < last["y"] + last["height"] <= log["y"] + log["height"]
        being_read = page.find("#messages > :nth-child(50)")
        page.js("arguments[0].scrollIntoView({block: 'center'})", being_read)
        before = being_read.rect["y"]
        page.submit("new", "w" * 500, "another")
        page.wait_for(lambda: len(page.messages) == 103, "three more messages")
        page.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        assert abs(being_read.rect["y"] - before) <= 1

    def test_webdriver_reads_every_message_however_many_there_are(self, page: Page) -> None:
        page.open().submit(*map(str, range(80)))
        page.wait_for(lambda: len(page.messages) == 80, "the messages")
        items = page.driver.find_elements("css selector", "#messages li")
        assert [item.text for item in items] == [f"Received:{number}" for number in range(80)]
        assert all(item.is_displayed() for item in items)

    def test_the_end_stays_in_sight_when_the_window_shrinks_or_the_field_grows(self, page: Page) -> None:
        page.set_motion("reduce")
        page.set_screen(1280, 800)
        page.open().submit(*map(str, range(60)))
        page.wait_for(lambda: len(page.messages) == 60, "the messages")

        def is_at_the_end() -> bool:
            log, last = page.find("#log").rect, page.find("#messages > :last-child").rect
            return bool(0 <= log["y"] + log["height"] - last["y"] - last["height"] <= 20)

        page.wait_for(is_at_the_end, "the end")
        page.set_screen(1280, 500)
        page.wait_for(is_at_the_end, "the end in a small window")
        page.field.send_keys(*(LINE * 5))
        page.wait_for(lambda: page.field.rect["height"] > 100 and is_at_the_end(), "the end above a tall field")
        page.set_screen(390, 844, phone=True)
        page.wait_for(is_at_the_end, "the end on a phone")

    def test_who_reads_further_up_sees_nothing_move_when_the_field_grows(self, page: Page) -> None:
        page.set_motion("reduce")
        page.open().submit(*map(str, range(60)))
        page.wait_for(lambda: len(page.messages) == 60, "the messages")
        being_read = page.find("#messages > :nth-child(30)")
        page.js("arguments[0].scrollIntoView()", being_read)
        page.wait_for(lambda: page.find("#newest").is_displayed(), "the way back")
        before = being_read.rect["y"]
        page.field.send_keys(*(LINE * 3))
        page.wait_for(lambda: page.field.rect["height"] > 80, "a tall field")
        page.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        assert abs(being_read.rect["y"] - before) <= 1
        assert page.find("#newest").is_displayed()


class TestConnection:
    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["shutdown", "kill"])
    def test_what_is_typed_while_the_server_is_away_stays_and_can_be_sent(
        self, page: Page, how: signal.Signals
    ) -> None:
        page.server_goes_away = True
        page.open().send("before")
        page.wait_for(lambda: "Received:before" in page.messages, "the answer")
        page.server.stop(how)
        page.wait_for_status(r"Reconnecting in \d+ s…")
        page.send("meanwhile")
        assert page.typed == "meanwhile"
        assert page.hint == "Not connected. Your text stays here until it can be sent."
        page.screenshot("disconnected")
        page.server.start()
        page.wait_for_status("Connected")
        assert page.typed == "meanwhile"
        assert page.hint == "Connected again. Your text is still here."
        page.find("#composer button").click()
        page.wait_for(lambda: page.messages[-1] == "Received:meanwhile", "the answer")
        assert page.typed == page.hint == ""
        assert page.messages.count("Received:meanwhile") == 1

    def test_a_text_that_got_no_answer_comes_back_to_the_field(self, page: Page) -> None:
        page.server_goes_away = True
        page.open().send("answered")
        page.wait_for_messages("Received:answered")
        page.server.send_signal(signal.SIGSTOP)
        page.send("lost")
        assert page.typed == ""
        page.server.stop(signal.SIGKILL)
        page.wait_for(lambda: page.typed == "lost", "the text in the field")
        assert page.hint == "The connection broke before the server answered. Your text is back in the field."

    def test_a_text_that_got_no_answer_does_not_disturb_the_next_one(self, page: Page) -> None:
        page.server_goes_away = True
        page.open()
        page.server.send_signal(signal.SIGSTOP)
        page.send("lost")
        page.field.send_keys("the next")
        page.server.stop(signal.SIGKILL)
        page.wait_for(lambda: page.hint, "the hint")
        page.server.start()
        page.wait_for_status("Connected")
        assert page.hint == "The connection broke before the server answered “lost”."
        assert page.typed == "the next"

    def test_what_is_typed_survives_a_reload(self, page: Page) -> None:
        page.open().field.send_keys("half a thought")
        page.driver.refresh()
        page.wait_for_status("Connected")
        assert page.typed == "half a thought"

    def test_delays_double_up_to_30_seconds_and_are_jittered(self, page: Page) -> None:
        page.server_goes_away = True
        with script_before(page, EIGHT_RETRIES_AT_ONCE):
            page.open()
            page.server.stop(signal.SIGKILL)
            page.wait_for(lambda: page.js("return delays.length") == 8, "eight attempts")
            delays = page.js("return delays")
        shares = [delay / min(30_000, 1000 * 2**attempt) for attempt, delay in enumerate(delays)]
        assert all(0.5 <= share <= 1 for share in shares)
        assert len(set(shares)) > 1

    def test_a_connection_that_has_held_a_second_begins_the_delays_anew(self, page: Page) -> None:
        page.server_goes_away = True
        keep_delays = f"""
            const original = setTimeout;
            window.delays = [];
            window.setTimeout = (run, delay) => {{
                if ({IS_RETRY}) delays.push(delay);
                return original(run, delay);
            }};
        """
        with script_before(page, keep_delays):
            page.open()
            for _ in range(4):
                page.js("return new Promise((resolve) => setInterval(resolve, 1_100))")
                page.server.stop(signal.SIGKILL)
                page.wait_for_status(r"Reconnecting in 1 s…")
                page.server.start()
                page.wait_for_status("Connected")
            assert page.js("return delays.every((delay) => delay <= 2_000)")

    @pytest.mark.parametrize(
        "cause",
        [
            lambda page: page.js("document.dispatchEvent(new Event('visibilitychange'))"),
            lambda page: page.js("dispatchEvent(new Event('online'))"),
            lambda page: page.send("now"),
        ],
        ids=["tab-looked-at", "network-back", "send"],
    )
    def test_there_are_reasons_not_to_wait(self, page: Page, cause: Callable[[Page], object]) -> None:
        page.server_goes_away = True
        with script_before(page, NO_RETRY_BY_ITSELF):
            page.open()
            page.server.stop()
            page.wait_for_status(r"Reconnecting in \d+ s…")
            page.server.start()
            cause(page)
            page.wait_for_status("Connected")

    def test_the_status_says_when_there_is_no_network(self, page: Page) -> None:
        page.server_goes_away = True
        network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        page.open().cdp("Network.enable")
        page.cdp("Network.emulateNetworkConditions", offline=True, **network)
        try:
            page.server.stop()
            page.wait_for_status(r"No network, reconnecting in \d+ s…")
            page.server.start()
        finally:
            page.cdp("Network.emulateNetworkConditions", offline=False, **network)
        page.wait_for_status("Connected")

    def test_screen_readers_hear_the_change_but_not_the_seconds(self, page: Page) -> None:
        page.server_goes_away = True
        page.open().server.stop()
        page.wait_for_status(r"Reconnecting in \d+ s…")
        assert page.find("#status").aria_role == "status"
        assert re.fullmatch(r" in \d+ s…", str(page.find("#status [aria-hidden]").get_property("textContent")))
        assert re.fullmatch(r"Reconnecting in \d+ s…", page.find("#status").text)  # in one line

    def test_a_page_that_came_by_tls_connects_by_tls(self, driver: Chrome, page: Page, tmp_path: Path) -> None:
        certificate = trustme.CA().issue_cert("127.0.0.1")
        certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        secure = type(page.server)("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
        try:
            assert secure.url.startswith("https://")
            secure_page = type(page)(driver, secure).open()
            secure_page.send("hello")
            secure_page.wait_for_messages("Received:hello")
        finally:
            secure.stop()


class TestPolicy:
    def test_an_injected_script_does_not_run_and_the_console_says_so(self, page: Page) -> None:
        page.open()
        page.js(
            """const script = document.createElement("script");
            script.textContent = "window.injected = true";
            document.head.append(script);"""
        )
        assert page.js("return window.injected") is None
        (entry,) = page.console()
        assert "Content Security Policy" in entry

    def test_without_script_the_page_says_what_is_missing(self, page: Page) -> None:
        page.cdp("Emulation.setScriptExecutionDisabled", value=True)
        try:
            page.driver.get(page.server.url)
            assert page.find(".notice").text.startswith("This page talks to the server through a script.")
            assert not page.find("form").is_displayed()
            assert not page.find("#status").is_displayed()
        finally:
            page.cdp("Emulation.setScriptExecutionDisabled", value=False)


class TestAppearance:
    @pytest.mark.parametrize(("width", "height", "phone"), [*SCREENS, pytest.param(780, 437, False, id="headless")])
    def test_all_there_is_can_be_seen_before_the_first_message(
        self, page: Page, width: int, height: int, phone: bool
    ) -> None:
        page.set_screen(width, height, phone=phone)
        page.open()
        for selector in ("#name", "#room", "#choice button", "#where", "#people", "#messages", "#messageText"):
            assert page.find(selector).is_displayed(), selector

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize(("width", "height", "phone"), SCREENS)
    def test_nothing_is_cut_off_or_scrolls_sideways(
        self, page: Page, width: int, height: int, phone: bool, scheme: str
    ) -> None:
        page.set_screen(width, height, scheme, phone=phone)
        page.open().screenshot(f"{width}x{height}-{scheme}-empty")
        page.submit("hello", "w" * 4096, "The quick brown fox jumps over the lazy dog. " * 4)
        page.submit("<b>not bold</b>", "مرحبا", "w" * 150, "last")
        page.wait_for(lambda: len(page.messages) == 7, "the messages")
        page.screenshot(f"{width}x{height}-{scheme}")
        assert page.js("return innerWidth") == width
        assert page.js("return document.documentElement.scrollWidth") <= width
        assert page.js("return document.documentElement.scrollHeight") <= height
        assert page.js("const log = document.querySelector('#log'); return log.scrollWidth <= log.clientWidth")
        for selector in ("h1", "#status", "#messageText", "#composer button"):
            box = page.find(selector).rect
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= height

    def test_controls_are_large_enough_for_a_thumb(self, page: Page) -> None:
        page.set_screen(360, 740, phone=True)
        page.open()
        for selector in ("#messageText", "#composer button"):
            box = page.find(selector).rect
            assert box["height"] >= 44
            assert box["width"] >= 44

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_colours_have_the_contrast_of_wcag_aa(self, page: Page, scheme: str) -> None:
        page.set_screen(1280, 800, scheme)
        page.open()
        assert _contrast(*_colours(page, "#empty", "color")) >= 4.5
        page.send("hello")
        page.wait_for_messages("Received:hello")
        page.find("#composer button").click()
        for selector, pseudo in (
            ("h1", ""),
            ("#status", ""),
            ("#messages > li", ""),
            ("#messages > li", "::after"),
            ("#messageText", ""),
            ("#messageText", "::placeholder"),
            ("#composer button", ""),
            ("#hint", ""),
        ):
            assert _contrast(*_colours(page, selector, "color", pseudo)) >= 4.5, (selector, pseudo)
        # What is no text needs 3:1 (WCAG 2.2, 1.4.11): the field's edge, the focus ring, the status light.
        for selector, prop, pseudo in (
            ("#messageText:focus", "outlineColor", ""),
            ("#messageText", "borderTopColor", ""),
            ("#status", "borderTopColor", "::before"),
        ):
            assert _contrast(*_colours(page, selector, prop, pseudo)) >= 3, selector

    def test_dark_is_dark_and_light_is_light(self, page: Page) -> None:
        page.set_screen(1280, 800, "dark")
        page.open()
        text, ground = _colours(page, "h1", "color")
        assert _luminance(ground) < 0.05 < _luminance(text)
        page.set_screen(1280, 800, "light")
        text, ground = _colours(page, "h1", "color")
        assert _luminance(ground) > 0.8 > _luminance(text)

    @pytest.mark.parametrize(("motion", "animation"), [("reduce", "none"), ("no-preference", "arrive")])
    def test_nothing_moves_for_who_asked_for_less_motion(self, page: Page, motion: str, animation: str) -> None:
        page.set_motion(motion)
        page.open().send("hello")
        page.wait_for_messages("Received:hello")
        style = "return getComputedStyle(document.querySelector('#messages > li')).animationName"
        assert page.js(style) == animation

    def test_everything_has_a_role_and_a_name(self, page: Page) -> None:
        page.open().send("hello")
        page.wait_for_messages("Received:hello")
        parts = {
            "h1": ("heading", "rawws"),
            "#log": ("log", "Messages"),
            "#messages": ("list", ""),
            "#messages > li": ("listitem", ""),
            "#messageText": ("textbox", "Message"),
            "#composer button": ("button", "Send"),
        }
        for selector, role_and_name in parts.items():
            element = page.find(selector)
            assert (element.aria_role, element.accessible_name) == role_and_name
        assert page.find("#messages").get_attribute("aria-live") == "polite"
        assert page.find("html").get_attribute("lang") == "en"


Colour = tuple[float, float, float]


def _colours(page: Page, selector: str, prop: str, pseudo: str = "") -> tuple[Colour, Colour]:
    """Return a colour of an element, and of the ground it stands on: the nearest ancestor's that has one."""
    pair = page.js(
        """const [selector, prop, pseudo] = arguments;
        const element = document.querySelector(selector);
        for (const animation of document.getAnimations()) animation.finish();
        let ground = prop === "color" ? element : element.parentElement;
        const groundColour = () => getComputedStyle(ground).backgroundColor;
        while (groundColour() === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
        return [getComputedStyle(element, pseudo || null)[prop], groundColour()];""",
        selector,
        prop,
        pseudo,
    )
    first, second = (tuple(map(float, re.findall(r"[\d.]+", colour))) for colour in pair)
    assert len(first) == len(second) == 3, pair  # opaque: rgb(), not rgba()
    return first, second


def _luminance(colour: Colour) -> float:
    """Relative luminance, 0 to 1 (WCAG 2.2)."""
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
        for share in (channel / 255 for channel in colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(first: Colour, second: Colour) -> float:
    """Contrast ratio, 1 to 21 (WCAG 2.2)."""
    lower, higher = sorted((_luminance(first), _luminance(second)))
    return (higher + 0.05) / (lower + 0.05)

"""The pages in a browser: for eyes and for screen readers, by keyboard, on a phone, in the dark, without scripts."""

import os
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise, product
from typing import Any, Literal
from urllib.parse import parse_qs

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from tests.integration.pages_gallery import CONTENT_SECURITY_POLICY, HOSTILE_NAME, LONG_HOST, SAMPLES, serve

pytestmark = pytest.mark.browser

# It must ask nobody else for anything; and its own sandbox does not start for root.
CHROMIUM_ARGUMENTS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    *(["--no-sandbox"] if os.geteuid() == 0 else []),
]
PHONE = ViewportSize(width=360, height=740)
SMALL_PHONE = ViewportSize(width=320, height=640)
DESKTOP = ViewportSize(width=1280, height=800)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
VIEWS = tuple(product((PHONE, DESKTOP), SCHEMES))
AXE_OPTIONS = {
    "resultTypes": ["violations", "incomplete"],
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "rules": {"target-size": {"enabled": True}},
}
CONTROLS = "a[href], button, summary, input:not([type=hidden])"
SEEN_CONTRAST = 3.0  # WCAG 2.2, 1.4.11: what must be seen to work a control

every_sample = pytest.mark.parametrize("name", SAMPLES)
one_sample_of_each_page = pytest.mark.parametrize("name", ["login-error", "consent", "account", "error", "signed-out"])


@pytest.fixture(scope="module")
def browser(chromium_path: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def gallery() -> Iterator[str]:
    with serve() as base_url:
        yield base_url


@pytest.fixture(scope="module")
def scriptless(browser: Browser, gallery: str) -> Iterator[Page]:
    with browser.new_context(base_url=gallery, java_script_enabled=False, viewport=DESKTOP) as context:
        yield context.new_page()


@pytest.fixture
def page(scriptless: Page) -> Page:
    """A page as people get it: the browser runs no script of the document's. What a test looks with still runs."""
    scriptless.emulate_media(color_scheme="light", forced_colors="none", reduced_motion="reduce")
    scriptless.set_viewport_size(DESKTOP)
    return scriptless


# What a screen reader is told


@every_sample
def test_axe_finds_nothing_on_phone_and_desktop_in_light_and_dark(name: str, browser: Browser, gallery: str) -> None:
    with browser.new_context(base_url=gallery, reduced_motion="reduce") as context:
        page = context.new_page()
        page.goto(f"/{name}")
        for viewport, scheme in VIEWS:
            page.set_viewport_size(viewport)
            page.emulate_media(color_scheme=scheme)
            found = Axe().run(page, options=AXE_OPTIONS).response
            assert not _told(found["violations"]), f"{scheme}, {viewport['width']} px wide"
            # Letters that paint over their neighbours leave axe undecided about contrast; nothing else may.
            if "hostile" not in name:
                assert not _told(each for each in found["incomplete"] if each["id"] == "color-contrast")


@every_sample
def test_a_page_has_a_language_a_title_one_main_heading_and_three_landmarks(name: str, page: Page) -> None:
    page.goto(f"/{name}")
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.title().endswith(" · Keystile")
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    for landmark in ("banner", "main", "contentinfo"):
        expect(page.locator(_ROLES[landmark])).to_have_count(1)


@pytest.mark.parametrize("name", ["login-error", "error", "error-plain"])
def test_the_title_of_a_page_with_an_error_begins_with_it(name: str, page: Page) -> None:
    page.goto(f"/{name}")
    assert page.title().startswith("Error: ")


def test_a_failed_sign_in_is_announced_and_describes_both_fields(page: Page) -> None:
    page.goto("/login-error")
    sentence = SAMPLES["login-error"].context["error"]
    expect(page.get_by_role("alert")).to_have_text(sentence)
    for label in ("User name", "Password"):
        expect(page.get_by_label(label)).to_have_accessible_description(sentence)
        expect(page.get_by_label(label)).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Password")).to_be_focused()


def test_password_managers_find_both_fields(page: Page) -> None:
    page.goto("/login")
    expect(page.get_by_label("User name")).to_have_attribute("autocomplete", "username")
    expect(page.get_by_label("Password")).to_have_attribute("autocomplete", "current-password")


@every_sample
def test_no_two_buttons_of_a_page_share_a_name(name: str, page: Page) -> None:
    page.goto(f"/{name}")
    names = [" ".join(text.split()) for text in page.get_by_role("button").all_text_contents()]
    assert len(names) == len(set(names)), names


def test_a_button_that_ends_access_says_whose_and_to_what(page: Page) -> None:
    page.goto("/account")
    button = page.get_by_role("button", name="End access of Claude Code to Team tools", exact=True)
    expect(button).to_have_accessible_description("23 Nov 2026, 14:00 UTC")


def test_moments_are_readable_by_people_and_programs(page: Page) -> None:
    page.goto("/account")
    moment = page.locator("time").first
    expect(moment).to_have_text("3 Nov 2026, 09:12 UTC")
    expect(moment).to_have_attribute("datetime", "2026-11-03T09:12:00Z")


# What consent rests on


def test_allowing_is_described_by_where_the_access_goes(page: Page) -> None:
    page.goto("/consent")
    expect(page.get_by_role("button", name="Allow")).to_have_accessible_description("Access goes to claude.ai")


def test_a_client_on_this_computer_comes_with_a_warning_that_is_part_of_the_button(page: Page) -> None:
    page.goto("/consent-loopback")
    warning = re.compile(r"localhost:51234 an application on this computer Did you just start this yourself\?")
    expect(page.get_by_role("button", name="Allow")).to_have_accessible_description(warning)
    expect(page.locator(".vouched")).to_have_count(0)


def test_what_a_client_says_of_itself_stands_apart_from_what_was_checked(page: Page) -> None:
    page.goto("/consent")
    claims, checked = page.locator(".claims"), page.locator(".checked")
    expect(claims).to_contain_text("unchecked")
    expect(claims).to_contain_text("claude.com")
    expect(checked).not_to_contain_text("claude.com")
    expect(checked).to_contain_text("https://tools.example.com/mcp")


def test_letters_that_imitate_others_in_a_host_name_are_pointed_out(page: Page) -> None:
    page.goto("/consent-hostile")
    expect(page.locator(".beware")).to_have_count(2)
    page.goto("/consent")
    expect(page.locator(".beware")).to_have_count(0)


@pytest.mark.parametrize("viewport", [SMALL_PHONE, DESKTOP], ids=["phone", "desktop"])
def test_a_hostile_name_neither_hides_the_host_nor_pushes_it_away(viewport: ViewportSize, page: Page) -> None:
    page.set_viewport_size(viewport)
    page.goto("/consent-hostile")
    name, host = page.locator(".claimed-name"), page.locator("#redirect-host .host")
    assert " ".join(name.inner_text().split()).startswith(HOSTILE_NAME[:20])
    assert name.evaluate("box => box.clientHeight / parseFloat(getComputedStyle(box).lineHeight)") < 3.5
    expect(host).to_have_text(LONG_HOST)
    assert host.evaluate(_IS_WHOLE_AND_ON_TOP)


# Room


@every_sample
def test_nothing_is_wider_than_the_window_even_with_text_twice_as_large(name: str, page: Page) -> None:
    page.goto(f"/{name}")
    for viewport, size in product((SMALL_PHONE, PHONE, DESKTOP), ("100%", "200%")):
        page.set_viewport_size(viewport)
        page.evaluate("size => { document.documentElement.style.fontSize = size; }", size)
        assert page.evaluate(_WIDER_THAN_THE_WINDOW) == [], f"{viewport['width']} px wide, text at {size}"


# The keyboard


@every_sample
def test_tab_reaches_every_control_in_the_order_seen_and_shows_where_it_is(name: str, page: Page) -> None:
    page.goto(f"/{name}")
    controls = page.locator(CONTROLS).count()
    for viewport, scheme in VIEWS:
        page.set_viewport_size(viewport)
        page.emulate_media(color_scheme=scheme)
        reached = _tab_through(page, controls)
        assert len({each["index"] for each in reached}) == controls
        assert all(_is_read_before(one, other) for one, other in pairwise(reached)), reached
        for each in reached:
            assert each["is_on_top"], each
            assert (each["outline_style"], each["outline_width"] >= 2) == ("solid", True), each
            assert _contrast(each["outline_color"], each["around"]) >= SEEN_CONTRAST, each


@one_sample_of_each_page
def test_focus_and_buttons_are_seen_in_forced_colours(name: str, page: Page) -> None:
    page.emulate_media(forced_colors="active")
    page.goto(f"/{name}")
    for control in page.locator(CONTROLS).all():
        control.focus()
        edges = control.evaluate(_EDGES)
        assert edges["outline_style"] == "solid"
        assert edges["border_style"] == "solid" or edges["is_underlined"]


@one_sample_of_each_page
def test_the_edges_of_fields_and_buttons_stand_out(name: str, page: Page) -> None:
    page.goto(f"/{name}")
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        for control in page.locator(CONTROLS).all():
            edges = control.evaluate(_EDGES)
            assert edges["is_underlined"] or _contrast(edges["border_color"], edges["around"]) >= SEEN_CONTRAST, edges


def test_enter_in_the_password_field_signs_in(page: Page) -> None:
    page.goto("/login")
    expect(page.get_by_label("User name")).to_be_focused()
    page.keyboard.type("ada")
    page.keyboard.press("Tab")
    page.keyboard.type("correct horse")
    with page.expect_request(lambda request: request.method == "POST") as sent:
        page.keyboard.press("Enter")
    assert sent.value.url.endswith("/login")
    assert _form(sent.value.post_data) == {
        "csrf": "csrf-token",
        "request": "request-1",
        "username": "ada",
        "password": "correct horse",
    }


@pytest.mark.parametrize("decision", ["allow", "deny"])
def test_a_decision_is_sent_by_its_button_alone(decision: str, page: Page) -> None:
    page.goto("/consent")
    page.get_by_role("button", name=decision.title()).focus()
    with page.expect_request(lambda request: request.method == "POST") as sent:
        page.keyboard.press("Enter")
    assert _form(sent.value.post_data) == {"csrf": "csrf-token", "request": "request-1", "decision": decision}


def test_a_request_is_left_out_of_the_form_where_there_is_none(page: Page) -> None:
    page.goto("/login-account")
    expect(page.locator("input[name=request]")).to_have_count(0)


# The policy


@every_sample
def test_a_page_breaks_no_policy_and_asks_no_other_host(name: str, browser: Browser, gallery: str) -> None:
    with browser.new_context(base_url=gallery) as context:
        page = context.new_page()
        complaints: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda request: requests.append(request.url))
        answer = page.goto(f"/{name}")
        assert answer is not None
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert complaints == []
        assert f"{gallery}/static/keystile.css" in requests
        assert all(url.startswith(gallery) for url in requests), requests
        assert page.locator("script, style, [style], iframe").count() == 0


def test_the_policy_of_these_tests_does_forbid_inline_styles(browser: Browser, gallery: str) -> None:
    with browser.new_context(base_url=gallery) as context:
        page = context.new_page()
        page.goto("/login")
        with page.expect_console_message(lambda message: "Content Security Policy" in message.text):
            page.evaluate("document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">')")


@every_sample
def test_what_others_wrote_stays_text(name: str, page: Page) -> None:
    page.goto(f"/{name}")
    assert page.locator("main b").count() == 0


# How the above is seen

_ROLES = {"banner": "body > header", "main": "body > main", "contentinfo": "body > footer"}

# Elements that reach out of the window, and whether the page scrolls sideways. What is clipped by design is left out.
_WIDER_THAN_THE_WINDOW = """() => {
    const width = document.documentElement.clientWidth;
    const isClipped = element => element.closest(".unseen, .claimed-name");
    const wider = [...document.body.querySelectorAll("*")].filter(element => {
        const box = element.getBoundingClientRect();
        return !isClipped(element) && box.width && (box.left < -0.5 || box.right > width + 0.5);
    });
    const scrolls = document.documentElement.scrollWidth > width ? ["the page scrolls"] : [];
    return [...scrolls, ...wider.map(element => element.outerHTML.slice(0, 120))];
}"""

# Whether nothing cuts an element off, and each of its lines is what one would touch at its ends and in its middle.
_IS_WHOLE_AND_ON_TOP = """element => {
    for (let each = element; each; each = each.parentElement) {
        const cuts = each !== document.documentElement && getComputedStyle(each).overflowX !== "visible";
        if (cuts && each.scrollWidth > each.clientWidth) return false;
    }
    element.scrollIntoView({block: "center"});
    return [...element.getClientRects()].every(line =>
        [line.left + 1, (line.left + line.right) / 2, line.right - 1].every(x =>
            element.contains(document.elementFromPoint(x, (line.top + line.bottom) / 2))));
}"""

_BACKGROUND_AROUND = """const around = element => {
    for (let each = element.parentElement; each; each = each.parentElement) {
        const colour = getComputedStyle(each).backgroundColor;
        if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
    return "rgb(255, 255, 255)";
};"""

_FOCUSED = f"""() => {{
    {_BACKGROUND_AROUND}
    const element = document.activeElement;
    const box = element.getBoundingClientRect();
    const style = getComputedStyle(element);
    const touched = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
    return {{
        index: [...document.querySelectorAll("*")].indexOf(element),
        top: box.top + scrollY, bottom: box.bottom + scrollY, left: box.left, right: box.right,
        is_on_top: element.contains(touched),
        outline_style: style.outlineStyle, outline_width: parseFloat(style.outlineWidth),
        outline_color: style.outlineColor, around: around(element),
    }};
}}"""

_EDGES = f"""element => {{
    {_BACKGROUND_AROUND}
    const style = getComputedStyle(element);
    return {{
        border_color: style.borderTopColor, border_style: style.borderTopStyle, around: around(element),
        outline_style: style.outlineStyle, is_underlined: style.textDecorationLine === "underline",
    }};
}}"""


def _told(findings: Iterable[dict[str, Any]]) -> list[str]:
    return [f"{each['id']}: {node['html'][:160]}" for each in findings for node in each["nodes"]]


def _tab_through(page: Page, controls: int) -> list[dict[str, Any]]:
    """Where the focus goes from the top of the page, one Tab a control."""
    page.evaluate("document.body.tabIndex = -1; document.body.focus()")
    reached = []
    for _ in range(controls):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(_FOCUSED))
    return reached


def _is_read_before(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["bottom"] <= other["top"] or one["right"] <= other["left"])


def _form(body: str | None) -> dict[str, str]:
    return {name: value for name, [value] in parse_qs(body or "", strict_parsing=True).items()}


def _luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG 2.2 defines it."""
    channels = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)

"""The page in a real browser, on a real Serve that follows a run."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from actors.storage.metrics import MetricsLog
from actors.storage.policy_store import PolicyStore
from tests.serve.served import deploy

pytestmark = pytest.mark.ray

SLOWLY_MS = 30_000

FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no chromium on this machine: install it (on Debian: apt-get install chromium) to test the page")
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*FLAGS, *sandbox])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def followed(address: str, tiny_policy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run with one policy, which is served."""
    run = tmp_path_factory.mktemp("run")
    PolicyStore(run / "policies").publish(0, tiny_policy_dir)
    write_metrics(run, 0)
    deploy(address, run_dir=str(run)).close()
    return run


@pytest.fixture
def page(browser: Browser, address: str, followed: Path) -> Generator[Page]:
    """The page at the size of a phone; nothing but the endpoint is asked for anything."""
    page = browser.new_page(viewport={"width": 390, "height": 800})
    asked: list[str] = []
    problems: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    expect(page.locator("#policy")).to_have_text(re.compile("^policy v"))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "input", "the first field that the keyboard reaches"
    fields = ("audio_length", "num_inference_steps", "guidance_scale")
    assert [page.locator(f"#{field}").input_value() for field in fields] == ["4", "50", "4.5"]
    page.fill("#audio_length", "0.5")
    page.fill("#num_inference_steps", "3")
    yield page
    page.close()
    assert all(url.startswith((address, "blob:", "data:")) for url in asked), asked
    assert not problems


def write_metrics(run: Path, latest: int) -> None:
    """What the run has measured of its policies so far."""
    log = MetricsLog(run / "metrics.jsonl")
    heldout = {"reward": {"mean": 0.5 + latest / 10, "se": 0.1}}
    log.write("iteration", iteration=latest, policy_version=latest, heldout=heldout)


def is_drawn(page: Page, canvas: str) -> bool:
    """Whether more than one colour is on it."""
    script = "canvas => new Set(new Uint32Array(canvas.getContext('2d').getImageData(0, 0, 600, 50).data.buffer)).size"
    return page.locator(canvas).first.evaluate(script) > 1


def test_a_prompt_is_typed_generated_and_heard(page: Page) -> None:
    expect(page.locator("#miniature")).to_contain_text("miniature")
    page.locator("#input").focus()
    page.keyboard.type("a dog barks")
    page.keyboard.press("Control+Enter")
    result = page.locator(".result")
    expect(result).to_have_count(1, timeout=SLOWLY_MS)
    expect(result.locator(".facts")).to_contain_text(
        re.compile(r"v0000 · reward -?\d\.\d{3} \(miniature-clap\) · seed \d+")
    )
    assert is_drawn(page, "canvas.wave") and is_drawn(page, "canvas.spectrum")
    played = page.locator("audio").evaluate(
        "player => new Promise(done => { player.onended = () => done(player.currentTime); player.play(); })"
    )
    assert played == pytest.approx(0.5, abs=0.1)
    result.get_by_role("button", name="Repeat").click()
    expect(page.locator(".result")).to_have_count(2, timeout=SLOWLY_MS)
    facts = page.locator(".facts").all_inner_texts()
    assert facts[0] == facts[1], "the same seed again"


@pytest.mark.parametrize(
    ("refused", "is_drawn_too"),
    [
        ("window.OfflineAudioContext = class { constructor() { throw new Error('16000 Hz'); } }", True),
        ("delete window.OfflineAudioContext; delete window.AudioContext; delete window.TextDecoderStream", True),
        ("HTMLCanvasElement.prototype.getContext = () => null", False),
        ("CanvasRenderingContext2D.prototype.createImageData = () => { throw new Error('no memory'); }", False),
        ("Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused'); } })", True),
    ],
)
def test_audio_is_played_and_saved_whatever_a_browser_refuses(
    page: Page, address: str, refused: str, is_drawn_too: bool
) -> None:
    page.add_init_script(refused)
    page.goto(address)
    expect(page.locator("#policy")).to_have_text(re.compile("^policy v"))
    page.fill("#input", "a dog barks")
    page.fill("#audio_length", "0.5")
    page.fill("#num_inference_steps", "3")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".result .facts")).to_have_count(1, timeout=SLOWLY_MS)
    expect(page.locator("#error")).to_be_hidden()
    loaded = "player => new Promise(done => { player.onloadedmetadata = () => done(player.duration); player.load(); })"
    assert page.locator("audio").evaluate(loaded) == pytest.approx(0.5, abs=0.01)
    expect(page.get_by_role("link", name="Download")).to_have_attribute("href", re.compile("^blob:"))
    assert page.locator("canvas").count() == (2 if is_drawn_too else 0)
    if is_drawn_too:
        assert is_drawn(page, "canvas.wave") and is_drawn(page, "canvas.spectrum")


def test_two_policies_are_compared_and_a_new_one_is_announced(page: Page, followed: Path) -> None:
    store = PolicyStore(followed / "policies")
    weights = store.state(0)
    store.publish(1, store.path(0), {"fc.0.weight": 3 * weights["fc.0.weight"]})
    write_metrics(followed, 1)
    expect(page.locator("#policy")).to_have_text("now serving new policy v0001", timeout=SLOWLY_MS)
    expect(page.locator("#figures tr")).to_have_count(3, timeout=SLOWLY_MS)
    assert page.locator("#model").input_value() == "latest" and page.locator("#other").input_value() == "base"
    page.get_by_role("button", name="thunder rumbles").click()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator(".result .facts")).to_have_count(2, timeout=SLOWLY_MS)
    [base, latest] = page.locator(".facts").all_inner_texts()
    assert base.startswith("v0000 · reward") and latest.startswith("v0001 · reward")
    assert re.findall(r"seed \d+", base) == re.findall(r"seed \d+", latest)


def test_an_error_is_shown_and_its_field_has_the_focus(page: Page) -> None:
    page.fill("#input", "a bell rings")
    page.fill("#audio_length", "9")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#error")).to_contain_text("to 4 seconds")
    assert page.evaluate("document.activeElement.id") == "audio_length"
    page.fill("#audio_length", "4")
    page.fill("#num_inference_steps", "200")
    page.get_by_role("button", name="Generate").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#running")).to_be_hidden()
    assert page.locator(".result").count() == 0


def test_nothing_is_wider_than_a_phone(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate("[...document.querySelectorAll('input,select,textarea')].every(field => field.labels.length)")

"""Pages of `write_report` in headless Chromium: drawn, sorted, hovered over, on a phone, in the dark, offline."""

import json
import shutil
import time

import pytest
import torch

from tensornet_interp import BilinearNetwork, decompose, write_report
from tensornet_interp.attention import Part, SequenceNetwork
from tensornet_interp.circuits import circuit
from tensornet_interp.features import Dictionary, strongest_windows
from tensornet_interp.graphs import feature_graph
from tensornet_interp.pages import write_feature_pages
from tensornet_interp.sweep import sweep
from tensornet_interp.testing import random_layer

pytestmark = pytest.mark.slow
pytest.importorskip("bokeh", reason="bokeh is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

DESKTOP, PHONE = (1200, 900), (360, 740)  # CSS pixels
LONG = [f"a name of an input that is long {i}" for i in range(6)]
SHADOWS = """
const found = [];
const search = (root) => root.querySelectorAll("*").forEach((element) => {
  if (element.shadowRoot) { found.push(element.shadowRoot); search(element.shadowRoot); }
});
search(document);
"""


@pytest.fixture(scope="module")
def browser():
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no browser: install Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """One page of every kind, by name."""
    folder = tmp_path_factory.mktemp("pages")
    images = random_layer(10, 49, 6, seed=0).with_names(input_shape=(7, 7))
    named = random_layer(3, 6, 5, seed=1).with_names(input_names=LONG, output_names=["$$a$$", "\\(b\\)", "<b>c</b>"])
    x, labels = torch.rand(8, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    network = BilinearNetwork([random_layer(6, 6, 5, seed=2).with_names(input_names=LONG), named.with_names()])
    tree = circuit(network, torch.tensor([1.0, 0, 0], dtype=torch.float64), widths=2, progress=False)
    objects = {
        "images": (decompose(images, "eigen", rank=4), {}),
        "named": (named, {"inputs": x, "labels": labels, "explain": [1]}),
        "cp": (decompose(named, "cp", rank=3), {"reference": named, "inputs": x, "explain": [0]}),
        "network": (network, {"inputs": x, "labels": labels, "explain": [0]}),
        "circuit": (tree, {"inputs": x}),
        "sweep": (sweep(named, {"eigen": {"rank": [1, 2]}, "cp": {"rank": [1, 2, 3]}}, progress=False), {}),
        "outputs": (random_layer(1000, 5, 4, seed=3), {}),
    }
    for name, (obj, options) in objects.items():
        write_report(obj, folder / f"{name}.html", **options)
    layer = random_layer(8, 6, 9, seed=4)
    before, after = Dictionary(draw(30, 6), draw(6, 30), k=5), Dictionary(draw(12, 8), draw(8, 12), k=4)
    words = ["<script>alert(1)</script>", " the", "\n", " $$x$$", "&amp;", f" {'very' * 30}"]
    text = [[words[(3 * window + 5 * place) % 6] for place in range(9)] for window in range(12)]
    x, places = draw(12, 9, 6), {(0, "in"): before, (0, "out"): after}
    ((window, position),) = strongest_windows([after.encode(layer(x))], 1).peaks(7)
    graph = feature_graph(SequenceNetwork([Part(layer)]), places, (0, "out", 7), x[window], position=position)
    options = {"x": x, "text": text, "graphs": {7: graph}, "basis": "made", "progress": False}
    write_feature_pages(folder / "features", layer, before, after, [7, 3], **options)
    own = {"feature": "feature-7", "index": "index"}
    return {name: folder / f"{name}.html" for name in objects} | {
        name: folder / "features" / f"{file}.html" for name, file in own.items()
    }


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def opened(browser, page, size=DESKTOP, dark=False):
    """Open a page, scroll over all of it, and wait until every figure is drawn."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page.as_uri())
    browser.execute_script("document.querySelectorAll('.plot').forEach((place) => place.scrollIntoView())")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for place in browser.find_elements(By.CSS_SELECTOR, ".plot:not([data-drawn])"):
            browser.execute_script("arguments[0].scrollIntoView()", place)
            time.sleep(0.05)
        if not browser.find_elements(By.CSS_SELECTOR, ".plot:not([data-drawn])"):
            break
    browser.execute_script("scrollTo(0, 0)")
    return browser


KINDS = ["images", "named", "cp", "network", "circuit", "sweep", "outputs", "feature"]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_is_drawn_and_nothing_overflows_or_comes_from_the_network(browser, pages, kind, size):
    opened(browser, pages[kind], size)
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [pages[kind].as_uri()]
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map((place) => {"
        " const box = place.firstElementChild.getBoundingClientRect(); return [box.left, box.right, box.height]; })"
    )
    assert sizes
    assert all(right - left >= 60 and height >= 60 and left >= 0 and right <= size[0] for left, right, height in sizes)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    empty = browser.execute_script(f"""{SHADOWS}
        return found.flatMap((root) => [...root.querySelectorAll("canvas")]).filter((canvas) => {{
          const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          return canvas.width && !data.some((value) => value);
        }}).length;""")
    canvases = browser.execute_script(
        f"{SHADOWS} return found.flatMap((root) => [...root.querySelectorAll('canvas')]).length"
    )
    assert canvases >= len(sizes)
    assert canvases - empty >= len(sizes)  # every figure has a canvas that is not blank


def test_long_names_leave_room_for_bars_and_texts_on_a_phone(browser, pages):
    opened(browser, pages["named"], PHONE)
    widths = browser.execute_script(
        "return Bokeh.documents.flatMap((doc) => doc.roots().map((plot) => plot.inner_width)).filter((width) => width)"
    )
    assert len(widths) > 10
    assert min(widths) >= 80  # of the area in which bars are drawn, in CSS pixels
    tall = browser.execute_script(
        "return Math.max(...[...document.querySelectorAll('tbody tr')].map((row) => row.offsetHeight))"
    )
    assert tall < 130  # at most five lines


def test_text_is_as_light_as_its_background_is_dark(browser, pages):
    for dark in (False, True):
        opened(browser, pages["named"], dark=dark)
        ink, back = browser.execute_script(
            "return [getComputedStyle(document.body).color, getComputedStyle(document.documentElement).backgroundColor]"
        )
        assert (brightness(ink) > 180, brightness(back) < 60) == (dark, dark)
        axis = browser.execute_script(
            "for (const doc of Bokeh.documents) for (const root of doc.roots()) for (const model of root.references())"
            " if (model.type === 'LinearAxis') return model.major_label_text_color"
        )
        channels = [int(axis[i : i + 2], 16) for i in (1, 3, 5)]
        assert (sum(channels) / 3 > 180) == dark


def brightness(text):
    channels = [float(part) for part in text[text.index("(") + 1 : -1].split(",")[:3]]
    return sum(channels) / 3


def column(browser, place, number):
    cells = f".table[data-table='{place}'] tbody td:nth-child({number})"
    return [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, cells)]


def test_tables_are_sorted_filtered_and_shown_in_steps(browser, pages):
    opened(browser, pages["outputs"])
    found = browser.execute_script(
        "return JSON.parse(document.getElementById('content').textContent).tables.map((table) => table.columns)"
    )
    place = next(at for at, columns in enumerate(found) if columns[0] == "output")
    frame = browser.find_element(By.CSS_SELECTOR, f".table[data-table='{place}']")
    assert column(browser, place, 1) == [f"output {i}" for i in range(10)]
    assert "1 to 10 of 1000" in frame.text
    buttons = frame.find_elements(By.CSS_SELECTOR, "th button")
    buttons[1].click()  # numbers begin with the largest
    first = [float(text) for text in column(browser, place, 2)]
    assert first == sorted(first, reverse=True)
    assert frame.find_elements(By.CSS_SELECTOR, "th")[1].get_attribute("aria-sort") == "descending"
    buttons[1].click()
    last = [float(text) for text in column(browser, place, 2)]
    assert last == sorted(last)
    assert max(last) < min(first)
    frame.find_element(By.XPATH, ".//button[contains(., 'next')]").click()
    assert "11 to 20 of 1000" in frame.text
    assert min(float(text) for text in column(browser, place, 2)) >= max(last)
    buttons[0].click()  # names by their numbers
    frame.find_element(By.CSS_SELECTOR, "input").send_keys("output 99")
    assert column(browser, place, 1) == ["output 99", *(f"output {i}" for i in range(990, 999))]
    assert "1 to 10 of 11" in frame.text


@pytest.mark.parametrize(("kind", "words"), [("images", "value"), ("named", "value"), ("sweep", "relative error")])
def test_hovering_shows_values(browser, pages, kind, words):
    opened(browser, pages[kind])
    place = browser.find_elements(By.CSS_SELECTOR, ".plot")[-1 if kind == "images" else 0]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", place)
    box = place.rect
    texts = ""
    for across in range(-9, 10):  # until the pointer is over a mark
        for down in (0, -3, 3, -6, 6):
            offset = int(across * box["width"] / 20), int(down * box["height"] / 20)
            ActionChains(browser).move_to_element_with_offset(place, *offset).perform()
            texts = browser.execute_script(
                f"{SHADOWS} return found.map((root) => root.host.className + root.textContent).filter((text) =>"
                f" text.includes('ooltip')).join('\\n')"
            )
            if words in texts:
                break
        if words in texts:
            break
    assert words in texts


def test_a_feature_page_shows_hostile_tokens_as_text_and_shades_by_activation(browser, pages):
    opened(browser, pages["feature"], PHONE)
    section = browser.find_element(By.CSS_SELECTOR, ".examples")
    assert "<script>alert(1)</script>" in section.text
    colours = browser.execute_script(
        "return [...document.querySelectorAll('.examples mark')].map((mark) =>"
        " [Number(mark.style.getPropertyValue('--shade')), getComputedStyle(mark).backgroundColor])"
    )
    alphas = [float(colour.split(",")[-1].strip(" )")) for _, colour in colours]
    expected = [0.12 + 0.68 * shade for shade, _ in colours]
    assert max(expected) == pytest.approx(0.8)
    assert alphas == pytest.approx(expected, abs=0.01)


def test_the_index_of_features_links_to_their_pages_and_back(browser, pages):
    opened(browser, pages["index"], PHONE)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
    assert browser.execute_script("return typeof Bokeh") == "undefined"
    frames = browser.find_elements(By.CSS_SELECTOR, ".table")
    frames[1].find_elements(By.CSS_SELECTOR, "th button")[0].click()  # sorted, rows keep their links
    frames[1].find_elements(By.CSS_SELECTOR, "th button")[0].click()
    links = {link.text.split()[0]: link for link in frames[1].find_elements(By.CSS_SELECTOR, "tbody a")}
    assert {number: link.get_attribute("href").rsplit("/")[-1] for number, link in links.items()} == {
        "3": "feature-3.html",
        "7": "feature-7.html",
    }
    links["7"].click()
    assert browser.find_element(By.CSS_SELECTOR, "h1").text.startswith("Output feature 7")
    browser.find_element(By.LINK_TEXT, "all features").click()
    assert browser.find_element(By.CSS_SELECTOR, "h1").text.startswith("Features of")

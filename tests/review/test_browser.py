"""Pages opened from disk in a real browser: they render, follow, correct, and ask nobody for anything."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffusion_adc.intake.corrections import read_corrections
from diffusion_adc.records import cohort as cohorts
from diffusion_adc.records import maps as files
from diffusion_adc.review.volumes import Grid

pytestmark = pytest.mark.timeout(900)
PATIENCE = 300_000  # ms; a shared machine may be slow, a broken page is slower


class Page:
    """A tab that keeps what it asked for and complained about."""

    def __init__(self, browser: Any, **context: Any) -> None:
        self.context = browser.new_context(accept_downloads=True, **context)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(PATIENCE)
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("dialog", lambda dialog: (self.errors.append(dialog.type), dialog.dismiss()))
        self.tab.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)

    def open(self, path: Path) -> Page:
        self.tab.goto(path.as_uri(), wait_until="commit")
        self.tab.wait_for_selector("body[data-state]", state="attached")
        assert self.tab.evaluate("document.body.dataset.state") == "ready"
        return self

    def stage(self) -> np.ndarray[Any, Any]:
        self.tab.wait_for_timeout(400)
        shot = self.tab.locator("#viewer").screenshot()
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)

    def pressed(self, kind: str) -> set[str]:
        return set(
            self.tab.eval_on_selector_all(
                f"button[data-{kind}][aria-pressed=true]", f"rows => rows.map(r => r.dataset.{kind})"
            )
        )

    def readout(self) -> str:
        return str(self.tab.text_content("#readout"))


@pytest.fixture
def page(browser: Any) -> Iterator[Page]:
    opened = Page(browser, viewport={"width": 1280, "height": 900})
    yield opened
    opened.context.close()


@pytest.fixture(scope="session")
def rich(maps: Path) -> str:
    """The case with most lesions."""
    return max(files.map_case_ids(maps), key=lambda c: files.read_map_record(maps, c)["n_lesions"])


def first_reader(cohort_dir: Path, case_id: str) -> tuple[Any, Any, Any]:
    """Presence, affine and shape as stored."""
    case = next(c for c in cohorts.read_cohort(cohort_dir).cases if c.case_id == case_id)
    volume = cohorts.load_volume(cohort_dir, case, "tumor_label")
    return volume.array != 0, volume.affine, volume.array.shape


def colored(picture: np.ndarray[Any, Any]) -> int:
    """Pixels in color, the crosshair's and the letters' blue left out."""
    red, green, blue = np.moveaxis(picture, -1, 0)
    return int(np.count_nonzero((np.abs(red - green) + np.abs(green - blue) > 60) & (blue <= red)))


def test_layers_draws_and_views(page: Page, site: Path, patients: Path, rich: str) -> None:
    page.open(site / "cases" / f"{rich}.html")
    assert page.pressed("background") == {"dwi_high"}
    assert page.pressed("overlay") == {"tumor"}
    gray, shown = None, page.stage()
    assert len(np.unique(shown[..., 0])) > 50  # an image, not an empty canvas
    assert colored(shown) > 20
    page.tab.keyboard.press("t")
    gray = page.stage()
    assert page.pressed("overlay") == set()
    assert colored(gray) < colored(shown) / 4
    for key, name in (("1", "t1w"), ("5", "adc")):
        page.tab.keyboard.press(key)
        assert not np.array_equal(page.stage(), gray)
        assert page.pressed("background") == {name}
    page.tab.keyboard.press("]")
    assert colored(page.stage()) > colored(gray)
    assert "draw 1/5" in page.readout()
    page.tab.keyboard.press("]")
    page.tab.wait_for_timeout(300)
    assert page.pressed("draw") == {"1"}
    page.tab.click("button[data-overlay=reader0]")
    page.tab.wait_for_timeout(300)
    assert page.pressed("overlay") == {"draw", "reader0"}
    # In outline mode a reader's voxel with four neighbors in its slice shows what lies under it.
    reader = np.pad(Grid(*first_reader(patients, rich)[1:]).turn(first_reader(patients, rich)[0]), 1)
    inner = (
        reader[:-2, 1:-1, 1:-1] & reader[2:, 1:-1, 1:-1] & reader[1:-1, :-2, 1:-1] & reader[1:-1, 2:, 1:-1]
    )
    border = int(np.count_nonzero(reader[1:-1, 1:-1, 1:-1] & ~inner))
    filled = "() => review.viewer.images.get('reader0').img.reduce((a, b) => a + b, 0)"
    assert page.tab.evaluate(filled) == np.count_nonzero(reader)
    page.tab.keyboard.press("o")
    page.tab.wait_for_timeout(500)
    assert page.tab.evaluate(filled) == border
    page.tab.keyboard.press("m")
    assert page.pressed("view") == {"axial"}
    assert page.errors == []


def test_crosshair_and_lesion_jump(page: Page, site: Path, maps: Path, rich: str) -> None:
    page.open(site / "cases" / f"{rich}.html")
    data = page.tab.evaluate("({lesions: REVIEW.lesions, shape: REVIEW.shape})")
    assert len(data["lesions"]) >= 2
    adc = files.read_map_volume(maps, rich, files.TUMOR_ADC).array
    for lesion in data["lesions"]:
        page.tab.click(f"button[data-jump='{lesion['lesion']}']")
        page.tab.wait_for_timeout(200)
        assert page.tab.evaluate("review.viewer.voxel()") == lesion["voxel"]
        text = page.readout()
        assert f"#{lesion['lesion']}" in text
        assert f"ADC {adc[tuple(lesion['seed'])]:.3f}" in text
        assert page.tab.get_attribute("tr.current", "data-lesion") == str(lesion["lesion"])
    before = page.tab.evaluate("review.viewer.voxel()")
    step = 1 if before[2] < data["shape"][2] - 1 else -1
    page.tab.keyboard.press("ArrowUp" if step == 1 else "ArrowDown")
    assert page.tab.evaluate("review.viewer.voxel()") == [before[0], before[1], before[2] + step]
    box = page.tab.locator("#viewer").bounding_box()
    page.tab.keyboard.press("m")  # axial alone: one click moves within the slice
    page.tab.mouse.click(box["x"] + box["width"] * 0.45, box["y"] + box["height"] * 0.55)
    page.tab.wait_for_timeout(300)
    after = page.tab.evaluate("review.viewer.voxel()")
    assert after[2] == before[2] + step
    assert after[:2] != before[:2]
    assert page.errors == []


def test_corrections_round_trip(page: Page, site: Path, maps: Path, rich: str, tmp_path: Path) -> None:
    page.open(site / "cases" / f"{rich}.html")
    hostile = "</td><script>window.hurt = 1</script>"
    page.tab.keyboard.press("x")  # the first lesion is shown when the page opens
    page.tab.keyboard.press("n")
    page.tab.keyboard.press("u")
    page.tab.fill("input[name=comment-2]", hostile)
    page.tab.click("#keep-rest")
    count = files.read_map_record(maps, rich)["n_lesions"]
    assert f"{count} / {count}" in str(page.tab.text_content("#decided"))
    with page.tab.expect_download() as waiting:
        page.tab.click("#save")
    saved = tmp_path / "corrections.json"
    waiting.value.save_as(saved)
    assert waiting.value.suggested_filename == f"corrections_{rich}.json"
    cases, comments = read_corrections(saved)
    assert comments == 1
    assert [j.decision for j in cases[0].lesions] == ["remove", "unsure"] + ["keep"] * (count - 2)
    record = json.loads(saved.read_text())
    assert record["run"] == "by hand"
    assert len(record["maps_sha256"]) == len(record["cohort_digest"]) == 64
    page.tab.reload(wait_until="commit")
    page.tab.wait_for_selector("body[data-state=ready]", state="attached")
    page.tab.set_input_files("#open", saved)
    page.tab.wait_for_timeout(500)
    assert page.tab.input_value("input[name=comment-2]") == hostile
    assert page.tab.is_checked("input[name=decision-1][value=remove]")
    assert page.tab.evaluate("window.hurt === undefined")
    page.tab.set_input_files("#open", {"name": "a.json", "mimeType": "application/json", "buffer": b"{}"})
    page.tab.wait_for_timeout(300)
    assert "no corrections" in str(page.tab.text_content("#decided"))
    assert page.errors == []


def test_projections_turn_and_mirror(page: Page, site: Path, rich: str) -> None:
    page.open(site / "cases" / f"{rich}.html")

    def frame(angle: int) -> Any:
        page.tab.evaluate(
            "a => { const s = document.getElementById('mip-angle'); s.value = a; s.dispatchEvent(new Event('input')); }",
            angle,
        )
        pixels = page.tab.evaluate(
            "() => { const c = document.getElementById('mip-dwi'); return {w: c.width, h: c.height, "
            "d: Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)}; }"
        )
        return np.array(pixels["d"]).reshape(pixels["h"], pixels["w"], 4)[..., 0]

    front, side, back = frame(0), frame(90), frame(180)
    assert (front < 200).any()
    assert not np.array_equal(front, side)
    assert np.abs(back[:, ::-1] - front).max() <= 1
    page.tab.click("#mip-play")
    page.tab.wait_for_timeout(1500)
    assert page.tab.text_content("#mip-degrees") != "180°"
    page.tab.click("#mip-play")
    page.tab.keyboard.press("?")
    assert page.tab.is_visible("#help")
    assert page.errors == []


def test_no_request_leaves_the_site(page: Page, site: Path, maps: Path) -> None:
    page.open(site / "index.html")
    for case_id in files.map_case_ids(maps):
        page.open(site / "cases" / f"{case_id}.html")
        for key in "12345tpbvrd]noi":
            page.tab.keyboard.press(key)
        page.tab.wait_for_timeout(500)
    outside = [u for u in page.asked if not u.startswith((site.as_uri(), "data:", "blob:"))]
    assert outside == []
    assert len(page.asked) > 20
    assert page.errors == []


def test_index_sorts(page: Page, site: Path) -> None:
    page.open(site / "index.html")
    values = "rows => rows.map(r => Number(r.cells[3].dataset.value))"
    page.tab.click("th button >> nth=2")
    rising = page.tab.eval_on_selector_all("#cases tbody tr", values)
    page.tab.click("th button >> nth=2")
    falling = page.tab.eval_on_selector_all("#cases tbody tr", values)
    assert rising == sorted(rising)
    assert falling == rising[::-1]
    assert page.tab.get_attribute("th >> nth=3", "aria-sort") == "descending"


@pytest.mark.parametrize("language", ["en", "ja"])
def test_a_phone_shows_it_without_sideways_scrolling(
    browser: Any, patients: Path, maps: Path, rich: str, language: str, tmp_path: Path
) -> None:
    from diffusion_adc.review.site import standalone_page

    path = tmp_path / "page.html"
    path.write_text(standalone_page(maps, patients, rich, language=language), encoding="utf-8")
    phone = Page(browser, viewport={"width": 390, "height": 844}, device_scale_factor=2, has_touch=True)
    phone.open(path)
    assert phone.tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert phone.tab.locator("#viewer").bounding_box()["width"] > 340
    assert colored(phone.stage()) > 20
    assert [u for u in phone.asked if not u.startswith(("file:", "data:", "blob:"))] == []
    assert phone.errors == []
    phone.context.close()


@pytest.mark.benchmark
def test_a_large_case_opens_in_three_seconds_and_stays_small(
    browser: Any, mapmaker: Any, tmp_path: Path
) -> None:
    """160 × 160 × 40 with 16 draws: time until the viewer is ready, and bytes of everything the page reads."""
    from diffusion_adc.phantom.options import PhantomOptions
    from diffusion_adc.phantom.simulate import simulate_cohort
    from diffusion_adc.review.site import write_site

    cohort = simulate_cohort(tmp_path / "cohort", PhantomOptions(cases=1, seed=3))
    maps_dir = mapmaker(cohort, tmp_path / "maps", draws=16)
    write_site(maps_dir, cohort, tmp_path / "site")
    (case_id,) = files.map_case_ids(maps_dir)
    page = Page(browser, viewport={"width": 1280, "height": 900})
    page.open(tmp_path / "site" / "index.html")  # a reviewer comes from there
    page.asked.clear()
    start = time.perf_counter()
    page.open(tmp_path / "site" / "cases" / f"{case_id}.html")
    seconds = time.perf_counter() - start
    read = [Path(u.removeprefix("file://")) for u in set(page.asked) if u.startswith("file://")]
    size = sum(path.stat().st_size for path in read)
    print(f"page of 160x160x40: ready after {seconds:.2f} s, {size / 2**20:.2f} MiB")
    assert size < 15e6
    assert seconds <= 3

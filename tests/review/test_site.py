"""The site: what is in it, what its policy allows, what is refused."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from importlib import resources
from pathlib import Path

import pytest

from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.records import maps as files
from diffusion_adc.review import shell
from diffusion_adc.review.shell import interval
from diffusion_adc.review.site import standalone_page, write_site
from diffusion_adc.review.words import SPOKEN, WORDS


def payload(site: Path, case_id: str) -> dict:  # type: ignore[type-arg]
    text = (site / "cases" / f"{case_id}.data.js").read_text()
    return json.loads(text.removeprefix("window.REVIEW = ").rstrip().removesuffix(";"))


def test_both_languages_have_the_same_words() -> None:
    assert set(WORDS["en"]) == set(WORDS["ja"])
    assert all(WORDS["ja"].values())
    assert set(SPOKEN) <= set(WORDS["en"])


def test_the_vendored_viewer_is_the_pinned_file_with_its_license() -> None:
    folder = resources.files("diffusion_adc.review") / "vendor"
    assert hashlib.sha256((folder / shell.VIEWER).read_bytes()).hexdigest() == shell.VIEWER_SHA256
    assert "BSD 2-Clause License" in (folder / "niivue.LICENSE.txt").read_text()
    notice = (folder / "niivue.NOTICE.txt").read_text()
    assert all(name in notice for name in ("fflate", "gl-matrix", "nifti-reader-js", "zarrita"))


@pytest.mark.parametrize(
    ("summary", "shown"),
    [
        ({"map": None, "median": None}, "–"),
        ({"map": 2.0, "median": 2.5, "low80": 1.0, "high80": 4.0}, "2.00 [1.00, 4.00]"),
        ({"map": None, "median": 1.0, "low80": 0.5, "high80": 1.5}, "– [0.50, 1.50]"),
        ({"map": 2.0, "median": None, "low80": None, "high80": None}, "2.00"),
    ],
)
def test_intervals_are_shown_as_they_are(summary: dict[str, float | None], shown: str) -> None:
    assert interval(summary) == shown


def test_every_case_has_its_page_and_every_address_exists(site: Path, maps: Path) -> None:
    pages = [site / "index.html", *(site / "cases" / f"{c}.html" for c in files.map_case_ids(maps))]
    for page in pages:
        text = page.read_text()
        for address in re.findall(r'(?:href|src)="([^"]+)"', text):
            assert address.startswith("data:") or (page.parent / address).exists(), address
        assert "://" not in re.sub(r"<svg.*?</svg>", "", text)
        assert "Digital patients" in text


def test_layers_rivals_and_lesions_are_those_of_the_maps(site: Path, maps: Path) -> None:
    for case_id in files.map_case_ids(maps):
        page, record = payload(site, case_id), files.read_map_record(maps, case_id)
        assert [b["id"] for b in page["backgrounds"]] == ["t1w", "t2w", "dwi_low", "dwi_high", "adc"]
        shown = [o["id"] for o in page["overlays"]]
        assert shown == ["tumor", "probability", "base", "rival0", "reader0", "reader1"]
        adc = next(b for b in page["backgrounds"] if b["id"] == "adc")
        assert adc["window"] == [0, 3]
        assert len(page["lesions"]) == record["n_lesions"]
        assert page["draws"]["count"] == record["draws"]
        assert page["source"]["tumor_adc_sha256"] == record["sha256"]["tumor_adc"]
        html = (site / "cases" / f"{case_id}.html").read_text()
        assert html.count('<tr data-lesion="') == record["n_lesions"]
        assert "rival &lt;run&gt;" in html


def test_policy_of_linked_and_standalone_pages(site: Path, patients: Path, maps: Path) -> None:
    linked = (site / "index.html").read_text()
    alone = standalone_page(maps, patients, files.map_case_ids(maps)[0], language="ja")
    for text in (linked, alone):
        policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
        assert policy is not None
        rules = policy.group(1)
        assert "default-src 'none'" in rules
        assert "connect-src 'none'" in rules
        assert "unsafe" not in rules
        assert "http" not in rules
        assert 'style="' not in text.split("<script>")[0]
    scripts = re.findall(r"<script>(.*?)</script>", alone, re.DOTALL)
    assert len(scripts) == 2 + len(shell.CASE_SCRIPTS)
    assert alone.count("sha256-") == len(scripts) + 1
    assert "../" not in alone.split("<script>")[0]
    assert "腫瘍マップ" in alone


def test_what_cannot_be_shown_is_refused(patients: Path, maps: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="en, ja"):
        write_site(maps, patients, tmp_path, language="xx")
    with pytest.raises(UsageError, match="no map of this case"):
        standalone_page(maps, patients, "SIM-99999_01")
    damaged = tmp_path / "maps"
    shutil.copytree(maps, damaged)
    case_id = next(c for c in files.map_case_ids(maps) if files.read_map_record(maps, c)["n_lesions"])
    table = damaged / case_id / "lesions.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(CohortError, match="lesions in its map"):
        write_site(damaged, patients, tmp_path / "site")
    table.write_text("\n".join([lines[0], lines[1].replace(",", ",x", 1)]) + "\n")
    with pytest.raises(CohortError, match="missing or damaged"):
        write_site(damaged, patients, tmp_path / "site")


def test_false_positive_volume_and_sorting_values(
    site: Path, patients: Path, maps: Path, tmp_path: Path
) -> None:
    from diffusion_adc.evaluation.evaluate import evaluate

    assert ">–</td>" in (site / "index.html").read_text()
    scored = tmp_path / "maps"
    shutil.copytree(maps, scored)
    evaluate(scored, patients, bootstrap=10)
    index = write_site(scored, patients, tmp_path / "site").read_text()
    rows = re.findall(r"<tr><td data-value=\"\">.*?</tr>", index)
    assert len(rows) == 3
    assert all(re.search(r'data-value="[0-9.]+">[0-9.]+</td><td data-value="\d', row) for row in rows)
    assert "Not scored yet" not in index


def test_another_methods_maps_need_no_draws_and_no_base_head(
    patients: Path, maps: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "maps"
    shutil.copytree(maps, bare)
    for case_id in files.map_case_ids(maps):
        record = files.read_map_record(maps, case_id)
        for name in (files.DRAWS, files.BASE_PROBABILITY):
            del record["sha256"][name]
            (bare / case_id / f"{name}.nii.gz").unlink()
        (bare / case_id / "case.json").write_text(json.dumps(record))
    write_site(bare, patients, tmp_path / "site")
    case_id = files.map_case_ids(maps)[0]
    page = payload(tmp_path / "site", case_id)
    assert page["draws"]["count"] == 0
    assert "base" not in [o["id"] for o in page["overlays"]]
    assert "data-draw" not in (tmp_path / "site" / "cases" / f"{case_id}.html").read_text()

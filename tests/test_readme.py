"""The README's commands exist, parse, and its section on own data works when it is followed to the letter."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from diffusion_adc.cli import _parser, main
from diffusion_adc.records.cohort import read_cohort

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REAL = Path(os.environ.get("DIFFUSION_ADC_REAL_DATA", ROOT.parent / "shared" / "data")) / "prostatex"
VARIABLES = {"DICOM": "in/dicom", "EXPORT": "in/export", "ID": "PX-0001"}


def commands(section: str | None = None) -> list[str]:
    """The shell lines of the README, of one section where it is named; continued lines joined, comments gone."""
    text = README
    if section is not None:
        (text,) = re.findall(rf"^#+ {re.escape(section)}\n(.*?)(?=^#+ |\Z)", README, re.M | re.S)
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    lines = re.sub(r"\\\n\s*", "", "".join(blocks)).splitlines()
    return [line for line in (re.sub(r"\s+#.*", "", line).strip() for line in lines) if line]


def words(line: str, variables: dict[str, str]) -> list[str]:
    for name, value in variables.items():
        line = re.sub(rf"\${name}\b", value, line)
    assert "$" not in line, f"an unknown variable in {line}"
    return shlex.split(line)


@pytest.mark.parametrize("line", commands())
def test_every_command_exists_and_parses(line: str) -> None:
    program, *rest = words(line, VARIABLES)
    if program == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{target}:.*##", makefile, re.M) for target in rest)
        return
    if program == "python" or not program.startswith("diffusion-adc"):
        pytest.skip(f"{program} is not ours to parse")
    args, unknown = _parser().parse_known_args(rest)
    assert args.overridable or not unknown


def test_every_file_it_names_is_there() -> None:
    named = set(
        re.findall(
            r"(?:experiments|notebooks|tests|diffusion_adc)/[\w/.-]+\.(?:yaml|png|ipynb|py|sh)", README
        )
    )
    made = {"experiments/best.yaml"}
    assert named
    assert {name for name in named - made if not (ROOT / name).is_file()} == set()
    listed = set(re.findall(r"^\| `([\w/]+\.yaml)` \|", README, re.M))
    there = {str(p.relative_to(ROOT / "experiments")) for p in (ROOT / "experiments").rglob("*.yaml")}
    assert listed <= there


@pytest.fixture
def workplace(tmp_path: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the project's experiments and a small run where the README has the demo's."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    shutil.copytree(small_run, tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="real data absent: set DIFFUSION_ADC_REAL_DATA to its folder")
def test_own_data_from_dicom_to_dicom(workplace: Path) -> None:
    shutil.copytree(
        REAL / "ProstateX-0000",
        workplace / "copy" / "ProstateX-0000",
        ignore=shutil.ignore_patterns("*.nii*"),
    )
    variables = {"DICOM": "copy"}
    followed = commands("Your own data") + commands("Back to the scanner's world")
    assert [line.split()[1] for line in followed] == ["ingest", "draw", "review", "export"]
    for line in followed:
        assert main(words(line, variables)[1:]) == 0, line
    (case,) = read_cohort(workplace / "cohorts" / "mine").cases
    maps = workplace / "runs" / "demo" / "mine"
    assert (maps / case.case_id / "tumor_adc.nii.gz").is_file()
    assert (maps / "index.html").is_file()
    assert list((workplace / "outgoing").rglob("*.dcm"))
    assert (workplace / "cohorts" / "mine" / "ingest_report.html").is_file()


@pytest.mark.slow
def test_experiments_and_opt_out(
    workplace: Path, phantom_cohort: Path, small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(phantom_cohort, workplace / "cohorts" / "pelvis")
    shutil.copytree(phantom_cohort, workplace / "cohorts" / "mine")
    fit, test, runs = (line for line in commands("Experiments") if line.split()[1] in ("fit", "test", "runs"))
    assert main([*words(fit, VARIABLES)[1:], *small]) == 0
    assert main(words(test, VARIABLES)[1:]) == 0
    assert main(words(runs, VARIABLES)[1:]) == 0
    assert "mine" in capsys.readouterr().out
    person = read_cohort(workplace / "cohorts" / "mine").cases[0].research_id
    for line in commands("Opt-out"):
        assert main(words(line, {"ID": person})[1:]) == 0, line
    assert person not in {case.research_id for case in read_cohort(workplace / "cohorts" / "mine").cases}

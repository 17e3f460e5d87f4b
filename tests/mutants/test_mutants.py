"""The tests can fail: faults are planted in a copy of the package one at a time, and the named test must notice each.

Every fault is a replacement of source text. The everyday suite only checks that the table has not rotted: each text
still stands in its file exactly once and each test is still there. ``pytest -m slow tests/mutants`` plants them all.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "diffusion_adc"


@dataclass(frozen=True)
class Mutant:
    """One planted fault.

    Attributes:
        name: What the fault is.
        file: Below the package.
        old: Text that stands in the file exactly once.
        new: What takes its place.
        caught_by: Test, as ``folder/file.py::function`` below ``tests``.
    """

    name: str
    file: str
    old: str
    new: str
    caught_by: str


MUTANTS = (
    Mutant(
        "files are written in place", "records/atomic.py",
        '        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")\n'
        "        os.close(handle)\n        temporary = Path(name)\n        yield temporary\n",
        "        yield path\n        return\n",
        "callbacks/test_checkpoints.py::test_a_full_disk_keeps_the_earlier_checkpoint",
    ),
    Mutant(
        "the average's counter stands still", "stages/ema.py",
        "torch._foreach_lerp_(averaged, current, 1 - self.at(int(updates)))",
        "torch._foreach_lerp_(averaged, current, 1 - self.at(0))",
        "stages/test_ema.py::test_decay_warms_up_to_its_limit",
    ),
    Mutant(
        "a checkpoint forgets the average's counter", "stages/ema.py",
        "        super().on_save_checkpoint(trainer, pl_module, checkpoint)\n",
        "        super().on_save_checkpoint(trainer, pl_module, checkpoint)\n"
        '        for value in (checkpoint.get("averaging_state") or {}).values():\n'
        "            value *= 0\n",
        "stages/test_presence_flow.py::test_trains_and_resumes_bit_equal",
    ),
    Mutant(
        "NIfTI files are read by SimpleITK alone, which turns NaN into 0", "intake/nifti.py",
        "    array = np.asarray(stored.values(np.float64))\n",
        "    import SimpleITK as sitk\n"
        "    array = sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkFloat64)).T.copy()\n",
        "intake/test_ingest.py::test_each_bad_file_gets_exactly_its_code",
    ),
    Mutant(
        "DICOM series are sorted by SimpleITK alone, which takes stray slices and gaps", "intake/dicom/geometry.py",
        "    _check_alike(slices, refused)\n    axis = normal(slices[0])\n    places, at = _places(slices, axis)\n",
        "    import SimpleITK as sitk\n"
        "    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(slices[0].path.parent), slices[0].series_uid)\n"
        "    by_name = {str(one.path): one for one in slices}\n"
        "    axis = normal(slices[0])\n"
        "    if slices[0].layout == 'classic' and all(name in by_name for name in names) and len(names) == len(slices):\n"
        "        ordered = [by_name[name] for name in names]\n"
        "        step = (np.array(ordered[-1].position) - np.array(ordered[0].position)) / max(1, len(ordered) - 1)\n"
        "        return Grid(tuple((one,) for one in ordered), _affine(ordered[0], step), ())\n"
        "    places, at = _places(slices, axis)\n",
        "intake/test_dicom_refusals.py::test_a_missing_middle_slice_is_found",
    ),
    Mutant(
        "a gap between slices is ignored", "intake/dicom/geometry.py",
        "    if off[worst] > _GAP_REFUSED:\n",
        "    if off[worst] > 1e9:\n",
        "intake/test_dicom_refusals.py::test_a_missing_middle_slice_is_found",
    ),
    Mutant(
        "de-identification removes what is on a list instead of keeping what is on one", "custody/allow_list.py",
        '                if _can_identify(dataset, tag):\n                    self.problems.append(keyword or "UnknownElement")\n',
        '                blocked = ("PatientBirthDate", "OtherPatientIDs", "InstitutionName", "OperatorsName")\n'
        "                if keyword not in blocked:\n                    kept[tag] = dataset[tag]\n",
        "security/test_deidentify.py::test_t1_no_planted_value_survives",
    ),
    Mutant(
        "dates are kept", "custody/deidentify.py",
        '        setattr(new, keyword, "")\n',
        '        setattr(new, keyword, dataset.get(keyword, "") if keyword.endswith("Date") else "")\n',
        "security/test_deidentify.py::test_t4_dates_and_ages",
    ),
    Mutant(
        "research IDs are matched to their beginning and a $", "domain/case.py",
        "    if not re.fullmatch(pattern, research_id, re.ASCII):\n",
        '    if not re.match(f"^{pattern}$", research_id):\n',
        "domain/test_case_cohort.py::test_hostile_research_ids_are_refused",
    ),
    Mutant(
        "the tracker runs with its default settings", "callbacks/session.py",
        "    settings = wandb.Settings(\n"
        '        console="off", disable_git=True, disable_code=True, save_code=False, disable_job_creation=True,\n'
        "        x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True, x_save_requirements=False,\n"
        '        host="anon", username="anon", email="", program=PROGRAM, root_dir=str(run_dir.resolve()), silent=True,\n'
        '        run_notes="", run_tags=(), run_group=None, run_job_type=None, finish_timeout=finish_s,\n',
        "    settings = wandb.Settings(\n"
        "        root_dir=str(run_dir.resolve()), silent=True, finish_timeout=finish_s,\n",
        "security/test_tracker.py::test_t11_nothing_planted_is_recorded",
    ),
    Mutant(
        "the signature of a delivery is not looked at", "custody/keys.py",
        "    except InvalidSignature:\n        return False\n    return True\n",
        "    except InvalidSignature:\n        return True\n    return True\n",
        "security/test_delivery.py::test_structural_attacks",
    ),
    Mutant(
        "withdrawal forgets what was prepared for training", "custody/traces.py",
        '        stores = {beside / f"{self.cohort.name}{STORE}", *self._stores(run_dirs, foreign)}\n',
        "        stores: set[Path] = set()\n",
        "security/withdrawal/test_traces.py::test_nothing_of_theirs_is_left",
    ),
    Mutant(
        "reading a cohort ignores its tombstones", "records/cohort.py",
        "    effective = replace(stored, withdrawn=withdrawn_ids(cohort_dir))\n",
        "    effective = stored\n",
        "data/test_module.py::test_withdrawn_persons_disappear_from_cohort_and_store",
    ),
    Mutant(
        "an ADC is a thousand times too large", "domain/units.py",
        'Mapping[str, float]] = {"1": 1e3, "1e-3": 1.0, "1e-6": 1e-3}\n',
        'Mapping[str, float]] = {"1": 1e3, "1e-3": 1.0, "1e-6": 1.0}\n',
        "intake/test_ingest.py::test_a_whole_examination_gets_in_untouched",
    ),
    Mutant(
        "the scale of a DICOM image is applied twice", "intake/dicom/pixels.py",
        "values = stored.astype(np.float64) * one.scale.slope + one.scale.intercept\n",
        "values = (stored.astype(np.float64) * one.scale.slope + one.scale.intercept) * one.scale.slope\n",
        "intake/test_dicom_study.py::test_the_scale_is_applied_exactly_once",
    ),
    Mutant(
        "the low and the high b are exchanged", "intake/bvalues.py",
        "            kept[name] = (images[index], b)\n",
        "            kept[name] = (images[len(groups) - 1 - index], b)\n",
        "intake/test_refusals.py::test_a_series_gives_its_low_and_high_b",
    ),
    Mutant(
        "the loader exchanges left and right", "data/store.py",
        "        return stored.transpose(0, 2, 3, 1) if self.planes else stored\n",
        "        return (stored.transpose(0, 2, 3, 1) if self.planes else stored)[:, ::-1]\n",
        "data/test_store.py::test_an_entry_holds_the_prepared_case",
    ),
    Mutant(
        "splits are made of cases, not of persons", "domain/cohort.py",
        "            self, cases=tuple(replace(case, split=split_of[case.research_id]) for case in self.cases)\n",
        "            self, cases=tuple(replace(c, split=SPLITS[n % 3]) for n, c in enumerate(self.cases))\n",
        "domain/test_case_cohort.py::test_no_split_mixes_a_person",
    ),
    Mutant(
        "Dice leaves out the tumors that were missed", "evaluation/agreement.py",
        "    if n_reference == 0:\n        if empties ==",
        "    if n_reference == 0 or n_presence == 0:\n        if empties ==",
        "evaluation/test_agreement.py::test_missed_tumor_enters_the_mean_as_zero",
    ),
    Mutant(
        "the map is made of voxels without a valid ADC too", "inference/tumor_map.py",
        "    return np.asarray(valid, dtype=bool) & validity_mask(adc)\n",
        "    return np.ones(np.shape(adc), dtype=bool)\n",
        "inference/test_tumor_map.py::test_an_invalid_voxel_is_in_no_volume_and_no_statistic",
    ),
    Mutant(
        "scores count voxels without a valid ADC", "evaluation/case.py",
        "    presence = prediction.presence & reference.valid\n",
        "    presence = prediction.presence\n",
        "evaluation/test_case.py::test_invalid_voxels_change_nothing_but_violations",
    ),
    Mutant(
        "each tile is drawn from its own noise, and finished draws are averaged", "inference/volume.py",
        "        after = None if on_step is None else lambda _step, _z: on_step(draws)\n",
        "        if self.blend is not None:\n"
        "            parts = []\n"
        "            for box in self.boxes:\n"
        "                own = features.window([p.start for p in box], [p.stop - p.start for p in box])\n"
        "                start = torch.randn_like(noise[(slice(None), slice(None), *box)])\n"
        "                parts.append((box, sampler.draw(lambda z, t, f=own: self.model.velocity(z, t, f), start)))\n"
        "            return self.blend.mean(iter(parts))\n"
        "        after = None if on_step is None else lambda _step, _z: on_step(draws)\n",
        "inference/test_volume.py::test_spread_in_overlaps_is_the_law_s_spread",
    ),
    Mutant(
        "a checkpoint with a weight that is no number is published", "callbacks/checkpoints.py",
        "and not bool(torch.isfinite(value).all()):\n",
        "and value.numel() < 0:\n",
        "callbacks/test_checkpoints.py::test_a_non_finite_weight_is_never_published",
    ),
    Mutant(
        "a packed stream is not read to its end", "records/nifti.py",
        "        if not stream.eof:\n            raise _cut(refused, name)\n",
        "        if not stream.eof:\n            break\n",
        "records/test_nifti_atomic.py::test_truncated_streams_are_refused",
    ),
)  # fmt: skip
IDS = [mutant.name for mutant in MUTANTS]


def test_there_are_at_least_twenty_and_no_two_alike() -> None:
    assert len(set(IDS)) == len({(m.file, m.old, m.new) for m in MUTANTS}) == len(MUTANTS) >= 20


@pytest.mark.parametrize("mutant", MUTANTS, ids=IDS)
def test_the_table_has_not_rotted(mutant: Mutant) -> None:
    text = (ROOT / PACKAGE / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1, "the text to replace is not there exactly once: renew the table"
    ast.parse(text.replace(mutant.old, mutant.new))
    file, _, function = mutant.caught_by.partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert function in found, "the test that is to notice it is gone: renew the table"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package and its tests in a folder of their own, where a fault harms nothing."""
    folder = tmp_path_factory.mktemp("planted")
    for name in (PACKAGE, "tests", "experiments"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def sound() -> dict[str, bool]:
    """By test: whether it passes without a fault."""
    return {}


def run(copy: Path, test: str) -> subprocess.CompletedProcess[str]:
    """The named test against the copy; no compiled file is kept, so that none outlives its source."""
    path = os.pathsep.join([str(copy), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "", "-p", "no:cacheprovider", "-p", "no:xdist",
               "--override-ini", "timeout=600", f"tests/{test}"]  # fmt: skip
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_copy_is_what_is_tested(copy: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import diffusion_adc; print(diffusion_adc.__file__)"],
        cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(done.stdout.strip()).is_relative_to(copy)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("mutant", MUTANTS, ids=IDS)
def test_the_fault_is_noticed(mutant: Mutant, copy: Path, sound: dict[str, bool]) -> None:
    if mutant.caught_by not in sound:
        done = run(copy, mutant.caught_by)
        sound[mutant.caught_by] = done.returncode == 0
        assert done.returncode == 0, f"fails without a fault:\n{done.stdout[-3000:]}"
    assert sound[mutant.caught_by], "fails without a fault"
    path = copy / PACKAGE / mutant.file
    text = path.read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        done = run(copy, mutant.caught_by)
    finally:
        path.write_text(text, encoding="utf-8")
    # 1: tests ran and failed; a fault that keeps them from running at all would prove nothing.
    assert done.returncode == 1, f"not noticed ({done.returncode}):\n{done.stdout[-3000:]}"

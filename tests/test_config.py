"""Composing and checking experiments."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from diffusion_adc.config import compose, dump, parse
from diffusion_adc.domain.errors import UsageError

ROOT = Path(__file__).parents[1]
BASE = ROOT / "experiments" / "base.yaml"


def write(path: Path, values: object) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def test_later_files_win_deeply_and_overrides_last(tmp_path: Path) -> None:
    a = write(tmp_path / "a.yaml", {"model": {"x": 1, "y": 2}, "k": [1, 2]})
    b = write(tmp_path / "b.yaml", {"model": {"y": 3}, "k": [9]})
    values = compose([a, b], ["--model.z=4", "--model.x=null"]).values
    assert values == {"model": {"x": None, "y": 3, "z": 4}, "k": [9]}


def test_interpolation_follows_the_last_value_also_in_lists(tmp_path: Path) -> None:
    a = write(tmp_path / "a.yaml", {"width": 4, "model": {"channels": [8, "${width}"]}})
    assert compose([a], ["--width=6"]).values["model"]["channels"] == [8, 6]


def test_dotted_keys_in_a_file_are_opened(tmp_path: Path) -> None:
    a = write(tmp_path / "a.yaml", {"model.lr": 0.1, "again": "${model.lr}"})
    assert compose([a]).values == {"model": {"lr": 0.1}, "again": 0.1}


@given(
    st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**9), 10**9), st.booleans())
)
def test_override_values_keep_their_type(value: float) -> None:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    read = compose([], [f"--a.b={text}"]).values["a"]["b"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["1e-3", "2E5", "1.5e-04"])
def test_engineers_exponents_are_numbers(text: str) -> None:
    assert compose([], [f"--lr={text}"]).values["lr"] == float(text)


@pytest.mark.parametrize("word", ["model.lr=1", "--model.lr", "--=3", "-x=1"])
def test_a_word_that_is_no_override_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="--key=value"):
        compose([], [word])


def test_missing_file_names_itself_but_not_its_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        compose([tmp_path / "nowhere.yaml"])
    assert "nowhere.yaml" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_unresolvable_interpolation_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        compose([write(tmp_path / "a.yaml", {"a": "${missing.key}"})])
    assert "\n" not in str(caught.value)
    assert "missing.key" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("--model.init_args.chanels=[8]", "model.init_args.channels"),
        ("--data.init_args.batchsize=2", "data.init_args.batch_size"),
        ("--trainer.max_step=3", "trainer.max_steps"),
        ("--grids.every_n_epoch=3", "grids.every_n_epochs"),
        ("--trackin.mode=offline", "tracking"),
    ],
)
def test_a_typo_is_refused_with_the_nearest_valid_key(override: str, nearest: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(compose([BASE], [override]))
    assert nearest in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_typo_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", {"model": {"init_args": {"chanels": [8]}}})
    with pytest.raises(UsageError, match=r"mine\.yaml"):
        parse(compose([BASE, path]))


@pytest.mark.parametrize(
    "class_path", ["os.system", "numpy.load", "antigravity", "subprocess.Popen", "diffusion_adcx.Evil", 7]
)
def test_classes_outside_the_allow_list_are_refused_without_import(class_path: object) -> None:
    sys.modules.pop("antigravity", None)
    for key in ("model.class_path", "data.class_path"):
        with pytest.raises(UsageError, match="allow-list"):
            parse(compose([BASE], [f"--{key}={class_path}"]))
    assert "antigravity" not in sys.modules


def test_python_tags_are_not_yaml_here(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("a: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(UsageError):
        compose([path])


def test_wrong_type_is_one_line() -> None:
    with pytest.raises(UsageError) as caught:
        parse(compose([BASE], ["--trainer.max_steps=many"]))
    assert "max_steps" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_saved_experiment_runs_again_identically(tmp_path: Path) -> None:
    first = dump(
        *parse(
            compose(
                [BASE], ["--model.init_args.learning_rate=2e-3", "--seed=5", "--checkpoints.monitor=null"]
            )
        )
    )
    path = tmp_path / "experiment.yaml"
    path.write_text(first)
    assert dump(*parse(compose([path]))) == first
    assert yaml.safe_load(first)["model"]["init_args"]["learning_rate"] == 0.002
    # A null that replaces a default must survive, or the run would not be the same one.
    assert yaml.safe_load(first)["checkpoints"]["monitor"] is None

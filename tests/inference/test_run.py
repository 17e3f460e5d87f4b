from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.inference.run import build_stage, load_run, run_settings
from diffusion_adc.records.atomic import sha256_file
from diffusion_adc.stages import PresenceFlowStage

MakeRun = Callable[..., Path]


def _edit(run: Path, **changes: Any) -> None:
    path = run / "experiment.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def test_a_run_opens_with_its_averaged_weights(tiny_run: Path, tiny_cohort: Path) -> None:
    run = load_run(tiny_run)
    assert isinstance(run.stage, PresenceFlowStage)
    assert not run.stage.training
    assert not any(p.requires_grad for p in run.stage.parameters())
    stored = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)
    for name, value in run.stage.state_dict().items():
        assert torch.equal(value, stored["state_dict"][name])
    assert run.checkpoint_sha256 == sha256_file(tiny_run / "checkpoints" / "best.ckpt")
    assert (run.name, run.split, run.cohort, run.covariates) == ("run", "person", tiny_cohort, ())
    assert (run.settings.draws, run.settings.steps) == (3, 2)
    assert run_settings(tiny_run) == run.settings


def test_best_falls_back_to_last_where_no_best_was_kept(tiny_run: Path) -> None:
    last = load_run(tiny_run, "last").checkpoint_sha256
    assert last != load_run(tiny_run, "best").checkpoint_sha256
    (tiny_run / "checkpoints" / "best.ckpt").unlink()
    assert load_run(tiny_run, "best").checkpoint_sha256 == last


@pytest.mark.parametrize(
    "class_path",
    [
        "os.system",
        "diffusion_adc.stagesx.Evil",
        "diffusion_adc.stages.presence_flow.torch",
        "diffusion_adc.stages.presence_flow.DiceLoss",
        "diffusion_adc.stages.NoSuchStage",
        "diffusion_adc.stages.no_module.Stage",
        "diffusion_adc.networks.Encoder",
        "PresenceFlowStage",
        "",
    ],
)
def test_nothing_but_a_stage_is_imported(class_path: str) -> None:
    with pytest.raises(UsageError, match=r"a stage below diffusion_adc\.stages"):
        build_stage({"class_path": class_path, "init_args": {}})


def test_a_foreign_module_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted.py").write_text("raise SystemExit('imported')\nclass Stage: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError):
        build_stage({"class_path": "planted.Stage"})
    assert "planted" not in sys.modules


def test_a_checkpoint_of_another_configuration_names_the_difference(
    tiny_run: Path, make_run: MakeRun
) -> None:
    for name, arguments, word in (
        ("wider", {"denoiser_width": 16}, "network"),
        ("deeper", {"channels": [8, 8, 8]}, "only in the experiment"),
        ("codec", {"codec": "identity"}, ""),
        ("target", {"target": "signed_distance", "spacing_mm": [2.0, 2.0, 4.0]}, ""),
    ):
        other = make_run(name, None, **arguments)
        _edit(tiny_run, model=yaml.safe_load((other / "experiment.yaml").read_text())["model"])
        with pytest.raises(UsageError, match="another configuration") as caught:
            load_run(tiny_run)
        assert word in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_is_refused(tiny_run: Path) -> None:
    path = tiny_run / "checkpoints" / "best.ckpt"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for broken in (bytes(flipped), whole[: len(whole) // 2], b""):
        path.write_bytes(broken)
        with pytest.raises(CohortError, match=r"checkpoint best.ckpt is damaged"):
            load_run(tiny_run)
    sidecar = path.with_name("best.ckpt.json")
    sidecar.unlink()  # without a hash to compare with, what cannot be read is still an error of one line
    for broken in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(broken)
        with pytest.raises(CohortError, match="damaged"):
            load_run(tiny_run)
    path.write_bytes(whole)
    sidecar.write_text(json.dumps({"sha256": sha256_file(path)}))
    load_run(tiny_run)


def test_a_pickle_that_runs_code_is_not_loaded(tiny_run: Path, tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "planted",))

    path = tiny_run / "checkpoints" / "best.ckpt"
    torch.save({"state_dict": Planted()}, path)
    path.with_name("best.ckpt.json").unlink()
    with pytest.raises(CohortError, match="damaged"):
        load_run(tiny_run)
    assert not (tmp_path / "planted").exists()


def test_what_is_no_run_is_said_in_one_line(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run in nothing"):
        load_run(tmp_path / "nothing")
    with pytest.raises(UsageError, match="one of best, last"):
        load_run(tiny_run, "epoch3")
    _edit(tiny_run, draws={"drawz": 3})
    with pytest.raises(UsageError, match="drawz"):
        load_run(tiny_run)
    _edit(tiny_run, draws={"draws": 0})
    with pytest.raises(UsageError, match="draws = 0"):
        run_settings(tiny_run)
    for name in ("best", "last"):
        (tiny_run / "checkpoints" / f"{name}.ckpt").unlink()
    with pytest.raises(UsageError, match="no checkpoint in run"):
        load_run(tiny_run)
    (tiny_run / "experiment.yaml").write_text("model: [1")
    with pytest.raises(UsageError, match="no model section"):
        load_run(tiny_run)


def test_a_checkpoint_without_latent_statistics_is_refused(tiny_run: Path) -> None:
    path = tiny_run / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["scale.count"].zero_()
    torch.save(checkpoint, path)
    path.with_name("best.ckpt.json").unlink()
    with pytest.raises(UsageError, match="latent statistics"):
        load_run(tiny_run)

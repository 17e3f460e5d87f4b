from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from diffusion_adc.data import CohortDataModule
from diffusion_adc.data.store import open_entry
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.clinical import FEATURES
from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.records.cohort import read_cohort, write_manifest

from .conftest import make_cohort


def module(cohort_dir, **options):
    defaults = {
        "patch_size": [16, 16, 8], "batch_size": 4, "patches_per_epoch": 24, "val_patches": 6, "progress": False,
    }  # fmt: skip
    return CohortDataModule(str(cohort_dir), **{**defaults, **options})


@pytest.fixture(scope="module")
def ready(cohort_dir):
    data = module(cohort_dir)
    data.prepare_data()
    for stage in ("fit", "test", "predict"):
        data.setup(stage)
    return data


def test_training_batch(ready):
    batches = list(ready.train_dataloader())
    assert len(batches) == len(ready.train_dataloader()) == 6
    shapes = {name: (tuple(t.shape), t.dtype) for name, t in batches[0].items()}
    f = len(FEATURES)
    assert ready.n_covariates == f
    assert shapes == {
        seq.IMAGES: ((4, 7, 16, 16, 8), torch.float32),
        seq.AVAILABLE: ((4, 5), torch.float32),
        seq.COVARIATES: ((4, f), torch.float32),
        seq.KNOWN: ((4, f), torch.float32),
        seq.PRESENCE: ((4, 1, 16, 16, 8), torch.float32),
        seq.LOCATION: ((4, 6), torch.int64),
        seq.CASE_INDEX: ((4,), torch.int64),
    }
    assert batches[0][seq.IMAGES].is_contiguous()
    train = {row for row, case in enumerate(ready.cohort.cases) if case.split == "train"}
    assert {int(i) for b in batches for i in b[seq.CASE_INDEX]} <= train
    assert not any(b[seq.KNOWN].any() for b in batches)  # image-only unless asked


def test_slices_come_from_the_same_code(cohort_dir):
    data = module(cohort_dir, patch_size=[24, 24, 1], covariates=["age_years", "psa_ng_ml"], augment="light")
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch[seq.IMAGES].shape == (4, 7, 24, 24, 1)
    assert batch[seq.KNOWN].sum(1).tolist() == [2.0] * 4


def test_validation_patches_never_change(cohort_dir, ready):
    again = module(cohort_dir, augment="light", patches_per_epoch=8)
    again.setup("fit")
    for a, b in zip(ready.val_dataloader(), again.val_dataloader(), strict=True):
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert sum(len(b[seq.CASE_INDEX]) for b in ready.val_dataloader()) == 6


def test_whole_cases_equal_what_drawing_prepares(ready):
    batches = list(ready.predict_dataloader())
    cases = ready.cohort.split("test")
    assert len(batches) == len(cases)
    for batch, case in zip(batches, cases, strict=True):
        prepared = ready.prepared(case)
        for name, tensor in prepared.batch().items():
            assert torch.equal(batch[name], tensor)
        assert seq.PRESENCE not in batch
        assert batch[seq.LOCATION].tolist() == [[0, 0, 0, *prepared.shape]]
    for batch in ready.test_dataloader():
        assert batch[seq.PRESENCE].shape[2:] == batch[seq.IMAGES].shape[2:]


def test_workers_give_the_same_batches_in_the_same_order(cohort_dir, ready):
    for augment in ("none", "light"):
        alone, two = (module(cohort_dir, workers=w, augment=augment) for w in (0, 2))
        for data in (alone, two):
            data.setup("fit")
        loaders = alone.train_dataloader(), two.train_dataloader()
        for epoch in (0, 1):
            for loader in loaders:
                loader.sampler.set_epoch(epoch)
            for a, b in zip(*loaders, strict=True):
                assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("split", ["person", "temporal", "scanner"])
def test_no_person_is_in_two_splits(cohort_dir, split):
    data = module(cohort_dir, split=split)
    persons = [{case.research_id for case in data.cohort.split(s)} for s in ("train", "val", "test")]
    assert not persons[0] & persons[1]
    assert not persons[0] & persons[2]
    assert not persons[1] & persons[2]
    if split == "person":
        assert data.cohort == read_cohort(cohort_dir)
    else:
        data.setup("fit")


def test_a_damaged_entry_is_rebuilt_on_setup(tmp_path):
    path = make_cohort(tmp_path / "c", 2, 1, 1)
    data = module(path)
    data.setup("fit")
    entry = data._entries["train"][0][1]
    good = entry.images().copy()
    raw = bytearray((entry.path / "images.npy").read_bytes())
    raw[5000] ^= 1
    (entry.path / "images.npy").write_bytes(raw)
    again = module(path)
    again.setup("fit")
    assert np.array_equal(again._entries["train"][0][1].images(), good)


def test_first_batch_is_quick(ready):
    start = time.perf_counter()
    next(iter(ready.train_dataloader()))
    assert time.perf_counter() - start < 0.2


class Recorder(pl.LightningModule):
    """Records which patches it was trained on; its weight depends on every one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, int, list[list[int]]]] = []

    def training_step(self, batch, index):
        self.seen.append((self.current_epoch, index, batch[seq.LOCATION].tolist()))
        return (
            (self.weight - batch[seq.IMAGES].mean() - 1e-4 * batch[seq.LOCATION].float().mean()).pow(2).sum()
        )

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Stop(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


def fit(data, folder, *, stop=None, resume=None, epochs=3, **saving):
    model = Recorder()
    saver = ModelCheckpoint(folder, "{epoch}-{step}", save_top_k=-1, **saving)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[saver, *([Stop(stop)] if stop else [])],
    )  # fmt: skip
    try:
        trainer.fit(model, datamodule=data, ckpt_path=resume)
    except (KeyboardInterrupt, SystemExit):
        assert stop
    return model


@pytest.fixture(scope="module")
def straight(cohort_dir, tmp_path_factory):
    """Three epochs without a break, saved after every step, after every epoch and after every validation."""
    folder = tmp_path_factory.mktemp("runs")
    model = fit(module(cohort_dir), folder / "step", every_n_train_steps=1)
    assert len(model.seen) == 18
    fit(module(cohort_dir), folder / "epoch", epochs=2, save_on_train_epoch_end=True)
    fit(module(cohort_dir), folder / "validation", epochs=2, save_on_train_epoch_end=False)
    return model, folder


@pytest.mark.parametrize(
    ("saved", "epoch", "step", "workers"),
    [
        ("step", 0, 3, 0), ("step", 0, 6, 0), ("step", 1, 8, 0), ("step", 1, 12, 0), ("step", 1, 8, 1),
        ("step", 1, 12, 1), ("epoch", 0, 6, 0), ("epoch", 1, 12, 1), ("validation", 0, 6, 0), ("validation", 1, 12, 0),
    ],
)  # fmt: skip
def test_a_run_resumes_with_the_very_next_patch(cohort_dir, tmp_path, straight, saved, epoch, step, workers):
    model, folder = straight
    (checkpoint,) = (folder / saved).glob(f"epoch={epoch}-step={step}.ckpt")
    resumed = fit(module(cohort_dir, workers=workers), tmp_path, resume=checkpoint)
    assert resumed.seen == model.seen[step:]
    assert torch.equal(resumed.weight, model.weight)


def test_an_interrupted_step_is_not_lost(cohort_dir, tmp_path, straight):
    first = fit(module(cohort_dir), tmp_path / "a", stop=9, every_n_train_steps=2)
    assert len(first.seen) == 9
    resumed = fit(module(cohort_dir), tmp_path / "b", resume=tmp_path / "a" / "epoch=1-step=8.ckpt")
    assert resumed.seen == straight[0].seen[8:]


def test_epochs_differ_and_the_trainer_does_not_wrap_the_sampler(cohort_dir, tmp_path):
    model = fit(module(cohort_dir), tmp_path, epochs=2)
    first, second = ([s[2] for s in model.seen if s[0] == epoch] for epoch in (0, 1))
    assert first != second
    assert len(first) == len(second) == 6


def test_two_ranks_share_one_epoch(cohort_dir, ready):
    whole = [row for b in ready.train_dataloader() for row in b[seq.LOCATION].tolist()]
    parts = []
    for rank in (0, 1):
        data = module(cohort_dir)
        data.setup("fit")
        data._ranks = lambda rank=rank: (rank, 2)
        parts.append([row for b in data.train_dataloader() for row in b[seq.LOCATION].tolist()])
    assert len(parts[0]) == len(parts[1]) == 12
    assert [row for pair in zip(*parts, strict=True) for row in pair] == whole


class TestBadInput:
    def check(self, error):
        assert "\n" not in str(error.value)
        assert "/" not in str(error.value).replace("batch_size × processes", "")

    def test_no_cohort(self, tmp_path):
        with pytest.raises(UsageError, match="no cohort in nowhere") as error:
            module(tmp_path / "nowhere").setup("fit")
        assert "\n" not in str(error.value)

    def test_no_tumor_in_the_train_split(self, tmp_path):
        path = make_cohort(tmp_path / "c", 2, 1, 0, tumor=False)
        with pytest.raises(CohortError, match="no tumor in the whole train split") as error:
            module(path).setup("fit")
        self.check(error)

    def test_empty_split(self, tmp_path):
        path = make_cohort(tmp_path / "c", 2, 0, 0)
        with pytest.raises(CohortError, match="no usable case in the val split") as error:
            module(path).setup("fit")
        self.check(error)

    def test_a_cohort_too_small_to_split_can_validate_on_itself(self, tmp_path):
        path = make_cohort(tmp_path / "c", 2, 0, 0)
        data = module(path, val_split="train")
        data.prepare_data()
        data.setup("fit")
        assert next(iter(data.val_dataloader()))[seq.IMAGES].shape[0] == 4

    def test_cases_without_a_map_are_not_taken_for_tumor_free(self, tmp_path):
        path = make_cohort(tmp_path / "c", 3, 1, 1, readers=1)
        cohort = read_cohort(path)
        from dataclasses import replace

        drop = {seq.TUMOR_LABEL, seq.TUMOR_ADC}
        cases = tuple(
            replace(c, files={k: v for k, v in c.files.items() if k not in drop}, tumor_status="unknown")
            if row in (2, 4)
            else c
            for row, c in enumerate(cohort.cases)
        )
        write_manifest(path, replace(cohort, cases=cases))
        data = module(path)
        data.setup("fit")
        assert len(data._entries["train"][0]) == 2
        data.setup("predict")
        assert next(iter(data.predict_dataloader()))[seq.IMAGES].shape[0] == 1

    def test_changed_manifest(self, tmp_path, cohort_dir):
        shutil.copytree(cohort_dir, tmp_path / "c")
        record = json.loads((tmp_path / "c" / "cohort.json").read_text())
        (tmp_path / "c" / "cohort.json").write_text(json.dumps({**record, "digest": "0" * 64}))
        with pytest.raises(CohortError, match="digest"):
            module(tmp_path / "c").setup("fit")

    def test_volume_smaller_than_the_patch(self, cohort_dir):
        data = module(cohort_dir, patch_size=[64, 64, 32])
        data.setup("fit")
        with pytest.raises(UsageError, match=r"at least the patch of 64×64×32; set data.patch_size") as error:
            data.train_dataloader()
        self.check(error)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"patches_per_epoch": 3}, "patches_per_epoch 3"),
            ({"batch_size": 0}, "batch_size 0"),
            ({"split": "random"}, "split kind 'random'"),
            ({"covariates": ["height"]}, "covariate 'height'"),
            ({"augment": "strong"}, "augment 'strong'"),
            ({"val_split": "test"}, "val_split 'test'"),
            ({"predict_split": "all_of_them"}, "predict_split"),
            ({"spacing_mm": [1.0, -2.0, 3.0]}, "spacing_mm"),
            ({"workers": -1}, "workers -1"),
            ({"patch_size": [16, 16]}, "patch_size"),
        ],
    )
    def test_options(self, cohort_dir, options, message):
        def build():
            data = module(cohort_dir, **options)
            data.setup("fit")
            data.train_dataloader()

        with pytest.raises(UsageError, match=message) as error:
            build()
        assert "\n" not in str(error.value)

    def test_a_store_that_cannot_be_written(self, cohort_dir, tmp_path):
        (tmp_path / "taken").write_text("a file")
        with pytest.raises(CohortError, match="store cannot be written"):
            module(cohort_dir, store=str(tmp_path / "taken")).setup("fit")


def test_a_coarse_grid_is_warned_about(tmp_path):
    path = make_cohort(tmp_path / "c", 2, 1, 0, shape=(44, 44, 12))
    with pytest.warns(UserWarning, match="choose a finer data.spacing_mm"):
        module(path, spacing_mm=[6.0, 6.0, 9.0], patch_size=[8, 8, 4]).setup("fit")


def test_withdrawn_persons_disappear_from_cohort_and_store(tmp_path):
    path = make_cohort(tmp_path / "c", 3, 1, 1)
    data = module(path)
    data.prepare_data()
    folder = data.store.folder
    assert (folder / "TEST-0001_01").exists()
    (path / "withdrawn.jsonl").write_text(
        json.dumps({"research_id": "TEST-0001", "when": "2026-01-01"}) + "\n"
    )
    again = module(path)
    again.prepare_data()
    assert not (folder / "TEST-0001_01").exists()
    assert open_entry(folder / "TEST-0002_01", "another key") is None
    assert Path(folder / "TEST-0002_01").exists()


class RankRecorder(Recorder):
    def on_train_end(self):
        rank = self.trainer.global_rank
        Path(self.trainer.default_root_dir, f"rank{rank}.json").write_text(json.dumps(self.seen))


@pytest.mark.slow
def test_two_real_ranks_share_the_epochs_of_one(cohort_dir, tmp_path, straight):
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", devices=2, strategy="ddp_fork", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(RankRecorder(), datamodule=module(cohort_dir, batch_size=2, patches_per_epoch=24))
    parts = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    whole = [row for step in straight[0].seen if step[0] < 2 for row in step[2]]
    ranks = [[row for step in part for row in step[2]] for part in parts]
    assert [row for pair in zip(*ranks, strict=True) for row in pair] == whole

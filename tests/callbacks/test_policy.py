"""The allow-list, the policy, the resolved mode, the reader of the tracker's log."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path

import pytest

from diffusion_adc.callbacks import runlog
from diffusion_adc.callbacks.policy import Policy, tracked_experiment, tracked_record
from diffusion_adc.callbacks.reach import obstacle, resolve, server_name
from diffusion_adc.callbacks.session import drop_link, environment, identity, make_link, stored_identity
from diffusion_adc.callbacks.settings import Tracking
from diffusion_adc.domain.errors import CohortError, UsageError


def test_only_what_is_known_to_be_harmless_is_tracked() -> None:
    kept = tracked_experiment(
        {
            "seed": 1, "name": "YAMADA", "cohort": "/data/x", "tracking": {"project": "p"},
            "model": {"class_path": "a.B", "init_args": {"lr": 0.1, "on": True, "channels": [1, 2], "note": "TARO"}},
            "data": {"init_args": {"cohort": "/data/x", "store": "/s", "covariates": ["age", "AB-0001"]}},
            "trainer": {"precision": "32-true", "default_root_dir": "/r", "strategy": "/x", "none": None},
        }
    )  # fmt: skip
    assert kept == {
        "seed": 1,
        "model": {"class_path": "a.B", "init_args": {"lr": 0.1, "on": True, "channels": [1, 2]}},
        "trainer": {"precision": "32-true"},
    }


def test_the_record_is_tracked_without_its_key() -> None:
    record = {"case_key": "00", "cases": ["aa"], "command": ["x"], "seed": 2, "cohort_digest": "d",
              "parents": [{"checkpoint_sha256": "c", "case_key": "k", "cases": []}]}  # fmt: skip
    assert tracked_record(record) == {"seed": 2, "cohort_digest": "d", "parent_checkpoints": ["c"]}


@pytest.mark.parametrize(
    ("policy", "free"),
    [
        (Policy("synthetic", "s"), True),
        (Policy("public", "s"), True),
        (Policy("restricted", "s"), False),
        (Policy("", "s"), False),
        (Policy("restricted", "s", "IRB-1", ("s",)), True),
        (Policy("restricted", "other", "IRB-1", ("s",)), False),
        (Policy("restricted", "s", None, ("s",)), False),
    ],
)
def test_restricted_needs_a_decision_and_its_server(policy: Policy, free: bool) -> None:
    assert policy.may_send_pictures is policy.may_send_models is free
    assert policy.case_name(2, "AB-0001_01") == ("AB-0001_01" if free else "case 3")
    assert policy.run_name("tiny", "r1") == ("tiny" if free else "r1")
    assert policy.run_name("AB-0001", "r1") == "r1"


def test_a_decision_names_its_servers() -> None:
    with pytest.raises(UsageError, match=r"tracking\.servers"):
        Tracking(decision="IRB-1")
    with pytest.raises(UsageError, match="reference"):
        Tracking(decision="as we said on the phone", servers=["s"])


def test_online_needs_a_key_and_a_server(clean_environment: pytest.MonkeyPatch, loopback: object) -> None:
    env = clean_environment
    assert resolve("disabled").mode == "disabled"
    assert resolve("offline") == resolve("offline").__class__("offline")
    env.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    without = resolve("online")
    assert without.mode == "offline"
    assert "WANDB_API_KEY" in (without.line or "")
    env.setenv("WANDB_API_KEY", "0" * 40)
    assert "does not answer" in (resolve("online").line or "")
    env.setenv("WANDB_BASE_URL", loopback.url)  # type: ignore[attr-defined]
    assert resolve("online").mode == "online"
    assert server_name() == loopback.name  # type: ignore[attr-defined]
    env.setenv("WANDB_MODE", "offline")
    assert resolve("online").mode == "offline"
    env.delenv("WANDB_MODE")
    env.setenv("WANDB_SWEEP_ID", "s")
    assert resolve("offline").mode == "online"
    loopback.refuse = True  # type: ignore[attr-defined]
    assert "refuses the key" in (obstacle() or "")


def test_the_id_is_kept_and_the_environment_is_not(
    tmp_path: Path, clean_environment: pytest.MonkeyPatch
) -> None:
    first = identity(tmp_path, "adc")
    assert identity(tmp_path, "other") == first
    for name in (
        "NOTES",
        "TAGS",
        "NAME",
        "RUN_GROUP",
        "JOB_TYPE",
        "PROGRAM",
        "HOST",
        "USERNAME",
        "DIR",
        "PROJECT",
    ):
        clean_environment.setenv(f"WANDB_{name}", "YAMADA")
    clean = environment(tmp_path, first)
    assert "YAMADA" not in clean.values()
    assert all(Path(clean[f"WANDB_{n}_DIR"]).is_relative_to(tmp_path) for n in ("CACHE", "CONFIG"))
    assert clean["WANDB_DATA_DIR"] == f"{first.link}/wandb/data_dir", "the client sends this place"
    clean_environment.setenv("WANDB_SWEEP_ID", "s")
    clean_environment.setenv("WANDB_RUN_ID", "trial1")
    assert identity(tmp_path, "adc").id == "trial1"


def test_the_link_says_nothing_and_follows_the_run(
    tmp_path: Path, clean_environment: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "yamada"
    who = identity(run, "adc")
    assert "yamada" not in who.link
    for place in (
        "job1-yamada",
        "job2-yamada",
    ):  # a cluster's TMPDIR names the user and changes with each job
        clean_environment.setenv("TMPDIR", str(tmp_path / place))
        clean_environment.setattr(tempfile, "tempdir", str(tmp_path / place))
        assert identity(run, "adc") == who
        assert "yamada" not in identity(tmp_path / place, "adc").link
    link = make_link(run, who)
    assert link.resolve() == run.resolve()
    moved = run.rename(tmp_path / "moved")
    assert make_link(moved, who).resolve() == moved.resolve()
    drop_link(who)
    assert not link.is_symlink()
    link.mkdir()
    with pytest.raises(OSError, match="exists"):
        make_link(moved, who)
    drop_link(who)
    link.rmdir()
    text = (moved / "tracker.json").read_text()
    (moved / "tracker.json").write_text(text.replace(who.link, str(tmp_path)))
    assert stored_identity(moved) is None, "a link elsewhere is no link of ours"


def _log(messages: list[bytes]) -> bytes:
    data = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
    for message in messages:
        first = True
        while first or message:
            room = 32768 - len(data) % 32768
            if room < 7:
                data += b"\0" * room
                continue
            part, message = message[: room - 7], message[room - 7 :]
            kind = (1 if first else 4) if not message else (2 if first else 3)
            data += struct.pack("<IHB", 0, len(part), kind) + part
            first = False
    return data


def test_the_log_is_read_across_blocks(tmp_path: Path) -> None:
    messages = [bytes([n % 251]) * size for n, size in enumerate((5, 32750, 40000, 0, 100_000, 7))]
    path = tmp_path / "run-x.wandb"
    path.write_bytes(_log(messages))
    assert list(runlog.payloads(path)) == messages
    path.write_bytes(_log(messages)[:-3])
    assert list(runlog.payloads(path)) == messages[:-1]
    path.write_bytes(b"something else")
    with pytest.raises(CohortError, match="damaged"):
        list(runlog.payloads(path))


def test_json_is_opened_and_numbers_are_no_texts() -> None:
    text = json.dumps({"a": [1, "山田"], "b": json.dumps({"c": "d"}), "e": "1.5"})
    assert [part for _, part in runlog.opened(text, "x")] == ["a", "山田", "b", "c", "d", "e"]
    assert list(runlog.opened("20190412", "x")) == [("x", "20190412")]

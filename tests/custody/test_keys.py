"""Keys and names by keyed hash."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from diffusion_adc.custody import keys
from diffusion_adc.custody.link_table import assign_ids, one_to_one, read_ids
from diffusion_adc.custody.uids import keyed_research_id, keyed_uid
from diffusion_adc.domain.case import check_research_id
from diffusion_adc.domain.errors import DiffusionAdcError, UsageError


def test_each_side_gets_its_own_keys_and_no_other(tmp_path: Path) -> None:
    sent = keys.keygen(tmp_path / "c", "clinic")
    got = keys.keygen(tmp_path / "i", "institute")
    assert set(sent) == {keys.SIGNING_PUBLIC}
    assert got[keys.RECIPIENT].startswith("age1")
    assert {p.name for p in (tmp_path / "c").iterdir()} == {keys.SIGNING, keys.SIGNING_PUBLIC, keys.SECRET}
    for name in (tmp_path / "c" / keys.SIGNING, tmp_path / "c" / keys.SECRET, tmp_path / "i" / keys.IDENTITY):
        assert stat.S_IMODE(name.stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="already"):
        keys.keygen(tmp_path / "c", "clinic")
    with pytest.raises(UsageError, match="role"):
        keys.keygen(tmp_path / "x", "both")


def test_keys_stay_apart_from_data(tmp_path: Path) -> None:
    (tmp_path / "cohort.json").write_text("{}")
    with pytest.raises(UsageError, match="within data"):
        keys.keygen(tmp_path / "cases" / "k", "institute")
    with pytest.raises(UsageError, match="within the data"):
        keys.apart_from([tmp_path / "cases" / "identity.age"], tmp_path / "cases")


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    keys.keygen(tmp_path / "c", "clinic")
    path = tmp_path / "c" / keys.SIGNING
    path.chmod(0o640)
    with pytest.raises(UsageError, match="read by others"):
        keys.signing_key(path)
    (tmp_path / "link").symlink_to(tmp_path / "c" / keys.SIGNING_PUBLIC)
    for wrong in (tmp_path / "link", tmp_path / "none", tmp_path / "c" / keys.SECRET):
        with pytest.raises(UsageError):
            keys.identities([wrong])


def test_a_signature_is_of_one_key_and_one_message(tmp_path: Path) -> None:
    keys.keygen(tmp_path / "a", "clinic")
    keys.keygen(tmp_path / "b", "clinic")
    own = keys.signing_key(tmp_path / "a" / keys.SIGNING)
    public, other = (keys.public_key(tmp_path / name / keys.SIGNING_PUBLIC) for name in "ab")
    signature = own.sign(b"x")
    assert keys.is_signed(public, signature, b"x")
    assert not keys.is_signed(public, signature, b"y")
    assert not keys.is_signed(other, signature, b"x")
    assert keys.key_id(public) == keys.key_id(own.public_key()) != keys.key_id(other)


def test_research_ids_by_hash_are_stable_and_of_the_form() -> None:
    one, two = b"1" * 32, b"2" * 32
    found = assign_ids([str(n) for n in range(300)], one, "AB")
    assert len(set(found.values())) == 300
    assert all(check_research_id(rid) == rid for rid in found.values())
    assert keyed_research_id(one, "7", "AB") == found["7"] != keyed_research_id(two, "7", "AB")
    for secret, prefix in ((b"short", "AB"), (one, "A1"), (one, "")):
        with pytest.raises(UsageError):
            keyed_research_id(secret, "7", prefix)
    with pytest.raises(UsageError):
        keyed_uid(b"", "1.2.3")


def test_lists_of_ids(tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    path.write_text("clinic_id,research_id\n0012,AB-0001\nNA,AB-0002\n")
    assert read_ids(path) == {"0012": "AB-0001", "NA": "AB-0002"}
    for pairs in ([("1", "AB-001"), ("1", "AB-002")], [("1", "AB-001"), ("2", "ab-001")], [("", "AB-001")]):
        with pytest.raises(UsageError):
            one_to_one(pairs)
    for text in (
        "clinic,research\n1,AB-001\n",
        "clinic_id,research_id\n1,Yamada\n",
        "clinic_id,research_id\n1\n",
    ):
        path.write_text(text)
        with pytest.raises(DiffusionAdcError) as caught:
            read_ids(path)
        assert "Yamada" not in str(caught.value)

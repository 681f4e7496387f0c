"""Atomic writing and hashing: a kill leaves the old or the new, a full disk is a sentence."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from avatars.errors import AvatarError, CaptureError, ConfigError, DiskFull, UserError
from avatars.files import atomic_path, claimed, content_hash, disk_full, plain_name, read_arrays, read_json, write_json


def test_file_appears_only_when_finished(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.bin"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
        assert not target.exists() and temporary.suffix == ".bin" and temporary.parent == target.parent
    assert target.read_bytes() == b"new" and os.listdir(target.parent) == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_failure_keeps_the_old_file(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(error)), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_folder_replaces_folder(tmp_path: Path) -> None:
    target = tmp_path / "clip"
    for content in ("one", "two"):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert os.listdir(target) == ["two"] and os.listdir(tmp_path) == ["clip"]
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.mkdir()
        raise RuntimeError
    assert os.listdir(target) == ["two"] and os.listdir(tmp_path) == ["clip"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_a_user_error(tmp_path: Path, number: int) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(UserError, match="disk is full while writing .*a.txt.*Free some space"), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise OSError(number, "no space")
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_inside_of_a_folder_names_the_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(DiskFull, match=r"writing [^ ]*clip: [0-9.]+ [GM]B are left on the disk at /[^ ]*\. Nothing") as caught,
        atomic_path(tmp_path / "clip") as temporary,
    ):
        temporary.mkdir()
        with atomic_path(temporary / "done.json"):
            raise OSError(errno.ENOSPC, "no space")
    assert not os.listdir(tmp_path) and caught.value.needed == 0
    with pytest.raises(DiskFull, match=r"about 2\.5 GB are needed\. Nothing") as caught, atomic_path(tmp_path / "clip") as temporary:
        raise disk_full(temporary / "x", 2.5e9)
    assert f"writing {tmp_path / 'clip'}: " in str(caught.value)
    with pytest.raises(PermissionError) as refused, atomic_path(tmp_path / "clip") as temporary:
        raise PermissionError(errno.EACCES, "no", str(temporary / "0.jpg"))
    assert refused.value.filename == str(tmp_path / "clip" / "0.jpg")


def test_os_errors_name_the_file_and_not_its_temporary_sibling(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(IsADirectoryError) as caught, atomic_path(tmp_path / "a.png") as temporary:
        temporary.write_bytes(b"x")
    assert caught.value.filename == str(tmp_path / "a.png") and os.listdir(tmp_path) == ["a.png"]
    with pytest.raises(FileNotFoundError) as caught, atomic_path(tmp_path / "b.png"):
        open(tmp_path / "elsewhere")
    assert caught.value.filename == str(tmp_path / "elsewhere")


def test_other_os_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_path(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "no")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        pass  # the body wrote nothing


def test_json_there_and_back(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None], "ä": {"b": True}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert read_json(tmp_path / "x.json") == value


def test_one_process_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    with claimed(tmp_path / "out"), claimed(tmp_path / "other"):
        with pytest.raises(UserError, match="Another process is working in .*out. Wait .*--out"), claimed(tmp_path / "out"):
            raise AssertionError("entered")
    with pytest.raises(KeyError), claimed(tmp_path / "out"):
        raise KeyError
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file, and a folder is to be written there"), claimed(tmp_path / "file"):
        raise AssertionError("nobody gets here")
    with claimed(tmp_path / "out"):  # given free by the failure
        pass


def test_damaged_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(AvatarError, match="report: .*x.json does not exist"):
        read_json(tmp_path / "x.json", "report")
    for content in (b'{"a": ', b"\xff\xfe\x00"):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(AvatarError, match="x.json is damaged.*make it again"):
            read_json(tmp_path / "x.json")


def test_every_damage_to_an_archive_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.arange(50.0), names=np.array(["a", "b"]))
    assert read_arrays(path)["names"].tolist() == ["a", "b"]
    whole = path.read_bytes()
    found = 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :])
        try:
            read_arrays(path, "codes", "Write it again.")
        except AvatarError as error:
            found += 1
            assert str(error).startswith(f"codes: {path} is damaged") and str(error).endswith("Write it again.")
    assert found > len(whole) / 2
    np.save(tmp_path / "b.npy", np.zeros(3))
    (tmp_path / "b.npy").rename(path)
    with pytest.raises(AvatarError, match="no npz archive"):
        read_arrays(path)
    np.savez(path, x=np.array([{}], dtype=object))
    with pytest.raises(AvatarError, match="pickled objects, which are never loaded"):
        read_arrays(path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0", 3])
def test_plain_names(name: object) -> None:
    assert plain_name("EXP-1 a.b", "sequence") == "EXP-1 a.b"
    with pytest.raises(ValueError, match="sequence .* cannot be the name of a file"):
        plain_name(name, "sequence")


def test_hash_depends_on_content_and_its_division(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello")
    (tmp_path / "b").write_bytes(b"hello")
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b") == content_hash("hello") == content_hash(b"hello")
    assert len(content_hash("x")) == 16 and len({content_hash(*items) for items in (("a", "bc"), ("ab", "c"), ("abc",), ("bc", "a"))}) == 4
    (tmp_path / "b").write_bytes(b"hellp")
    assert content_hash(tmp_path / "a") != content_hash(tmp_path / "b")


def test_every_error_is_a_user_error() -> None:
    assert all(issubclass(e, UserError) for e in (CaptureError, ConfigError, AvatarError)) and not issubclass(UserError, ValueError)


def test_json_is_written_for_people(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    assert (tmp_path / "x.json").read_text().endswith("}\n") and json.loads((tmp_path / "x.json").read_text()) == {"a": 1}

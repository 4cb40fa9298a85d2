"""The archive that is never written is a real tar, and any range of it is the same bytes."""

import hashlib
import io
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from app.storage import StoredFile
from app.web.archive import Content, tar

files = st.lists(
    st.tuples(st.from_regex(r"[a-z]{1,12}\.json", fullmatch=True), st.binary(max_size=2000)),
    min_size=1,
    max_size=5,
    unique_by=lambda file: file[0],
)


def content_of(contents: list[tuple[str, bytes]]) -> tuple[Content, dict[str, bytes]]:
    stored = [StoredFile(name, f"key/{name}", len(data), hashlib.sha256(data).hexdigest()) for name, data in contents]
    return tar(stored, folder="folder", mtime=1_700_000_000), {f"key/{name}": data for name, data in contents}


def whole(content: Content, stored: dict[str, bytes]) -> bytes:
    return b"".join(part.data if not part.key else stored[part.key] for part in content.parts)


@given(files)
def test_tar_unpacks_to_the_same_files(contents: list[tuple[str, bytes]]) -> None:
    content, stored = content_of(contents)
    data = whole(content, stored)
    assert len(data) == content.size
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert {member.name: archive.extractfile(member).read() for member in archive} == {
            f"folder/{name}": data for name, data in contents
        }


def test_same_files_give_the_same_bytes_and_another_content_another_hash() -> None:
    one, stored = content_of([("a.json", b"1"), ("b.json", b"22")])
    again, _ = content_of([("a.json", b"1"), ("b.json", b"22")])
    other, _ = content_of([("a.json", b"1"), ("b.json", b"23")])
    assert one == again
    assert whole(one, stored) == whole(again, stored)
    assert one.sha256 != other.sha256


def test_file_larger_than_eight_gigabytes_fits() -> None:
    huge = tar([StoredFile("model.safetensors", "key", 9 * 2**30, "0" * 64)], folder="folder", mtime=0)
    header = b"".join(part.data for part in huge.parts if not part.key)[:1536]
    assert b"size=9663676416" in header

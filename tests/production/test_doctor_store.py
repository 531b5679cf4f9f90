"""What `quel doctor` says of a bucket with rules: kinds, sizes, and who may read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from werkzeug.wrappers import Request, Response

from quel_dagster.cli.doctor.finding import Finding, Result
from quel_dagster.cli.doctor.object_store import PROBE_KEY, _picture, check_object_store
from quel_dagster.settings import Settings
from tests.integration.storage.supabase_server import SERVICE_KEY, SupabaseServer, missing, refusal, running_supabase


@dataclass
class Bucket(SupabaseServer):
    """A bucket with the rules that Supabase lets its owner set."""

    kinds: set[str] = field(default_factory=set)
    largest: int = 0
    private: bool = False

    def _upload(self, name: str, request: Request) -> Response:
        file = request.files["file"]
        if self.kinds and file.content_type not in self.kinds:
            return refusal(415, "invalid_mime_type", f"mime type {file.content_type} is not supported")
        if self.largest and len(file.read()) > self.largest:
            return refusal(413, "Payload too large", "The object exceeded the maximum allowed size")
        file.seek(0)
        return super()._upload(name, request)

    def _public(self, name: str) -> Response:
        return missing() if self.private else super()._public(name)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    made = Bucket()
    with running_supabase(made):
        yield made


def _finding(bucket: Bucket, tmp_path: Path) -> Finding:
    store = f"http://127.0.0.1:{bucket.port}"
    settings = Settings.read(
        _env_file=None,
        supabase_url=store,
        supabase_service_key=SERVICE_KEY,
        storage_base_url=f"{store}/storage/v1/object/public/attachments/",
        home=tmp_path,
    )
    (finding,) = check_object_store(settings)
    return finding


def test_a_bucket_for_pictures_alone_is_fit(bucket: Bucket, tmp_path: Path) -> None:
    bucket.kinds = {"image/webp", "image/png"}
    finding = _finding(bucket, tmp_path)
    assert finding.result is Result.OK, finding
    assert f"attachments/{PROBE_KEY}" not in bucket.objects


def test_bucket_that_forbids_webp_is_named(bucket: Bucket, tmp_path: Path) -> None:
    bucket.kinds = {"image/png", "text/plain"}
    finding = _finding(bucket, tmp_path)
    assert finding.result is Result.FAILED
    assert "a WebP picture of" in finding.said
    assert "the bucket must take image/webp" in finding.remedy


def test_size_limit_below_a_picture_is_named(bucket: Bucket, tmp_path: Path) -> None:
    bucket.largest = 50_000
    finding = _finding(bucket, tmp_path)
    assert finding.result is Result.FAILED
    assert "of that size" in finding.remedy


def test_private_bucket_is_named(bucket: Bucket, tmp_path: Path) -> None:
    bucket.private = True
    finding = _finding(bucket, tmp_path)
    assert finding.result is Result.FAILED
    assert "make the bucket public" in finding.remedy


def test_the_probe_is_of_a_pictures_size() -> None:
    """A rich picture of 1376×768 has 100 to 400 kB; a probe below that sees no limit."""

    assert 100_000 < len(_picture()) < 2_000_000

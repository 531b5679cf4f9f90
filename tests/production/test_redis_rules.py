"""A whole installation with every server behind access rules.

Redis with TLS and a user that has only the prescribed rules, PostgreSQL with a role that owns only schema
quel_dagster, an S3 server.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import redis
import trustme
from moto.server import ThreadedMotoServer

from quel_dagster.cli.doctor.redis_server import ACL_RULES
from tests.production.servers import SharedDatabase, system_redis
from tests.production.site import check_whole, site

ACCESS_KEY, SECRET_KEY, REDIS_PASSWORD = "AKIACANARY77", "secret-canary-9e2f", "canary-password-of-redis"
BUCKET = "pictures"
#: what Redis keeps of refused commands: ACL LOG
NOTHING_REFUSED: list[object] = []


@pytest.fixture
def storage_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    endpoint = f"http://127.0.0.1:{port}"
    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys).create_bucket(Bucket=BUCKET)
    yield f"s3://{BUCKET}/quel?endpoint={endpoint}&region=us-east-1"
    server.stop()


async def test_rules_that_the_page_prescribes_are_enough_for_a_whole_installation(
    shared: SharedDatabase, storage_url: str, tmp_path: Path
) -> None:
    authority = trustme.CA()
    certificate = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(certificate)
    with system_redis(tmp_path, tls=authority.issue_cert("127.0.0.1")) as port:
        admin = redis.Redis(host="127.0.0.1", port=port, ssl=True, ssl_ca_certs=str(certificate))
        admin.execute_command("ACL", "SETUSER", "quel", "on", f">{REDIS_PASSWORD}", *ACL_RULES.split())
        url = f"rediss://quel:{REDIS_PASSWORD}@127.0.0.1:{port}/0?ssl_ca_certs={certificate}"
        more = {"storage_url": storage_url, "aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
        with site(tmp_path, shared, url=shared.url, redis_url=url, **more) as running:
            await check_whole(running, SECRET_KEY, REDIS_PASSWORD)
        assert admin.execute_command("ACL", "LOG") == NOTHING_REFUSED
        admin.close()

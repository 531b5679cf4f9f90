"""`/quel/pictures/ATTACH_ID`: a stored picture in full size, or small with `?side=PIXELS`."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from quel_dagster.console.page.site import HEADERS, Site
from quel_dagster.errors import PictureError, ReferenceUnavailableError, StorageError, StorageKeyError
from quel_dagster.jobs.decoding import MAX_BYTES
from quel_dagster.jobs.pictures import thumbnail
from quel_dagster.jobs.references import reference_key

_SIDES = {160: 12_000, 480: 60_000, 960: 200_000}
#: Maximum of pictures decoded at a time, so that a page of hundreds does not use all cores of the web server.
_AT_A_TIME = asyncio.Semaphore(2)


async def picture(site: Site, request: Request) -> Response:
    """Return a picture of quel_attach. Objects never change, so browsers may cache it for a day."""
    attach_id = int(request.path_params["attach_id"])
    if attach_id >= 2**63:
        return _none("no such quel_attach row")
    attach = (await site.connections.database.work.find_attaches([attach_id])).get(attach_id)
    if attach is None:
        return _none("no such quel_attach row")
    wanted = request.query_params.get("side", "")
    side = next((size for size in _SIDES if wanted.isdigit() and int(wanted) <= size), None)
    try:
        async with _AT_A_TIME:
            data = await site.store.get(reference_key(attach), max_bytes=MAX_BYTES)
            # encoded again also in full size, so that only a picture is sent, not another content of the object
            longest, most = (side, _SIDES[side]) if side else (4096, 8_000_000)
            small = await asyncio.to_thread(thumbnail, data, longest_side=longest, max_bytes=most)
    except (StorageError, StorageKeyError, ReferenceUnavailableError, PictureError) as error:
        return _none(str(error))
    return Response(small, media_type="image/webp", headers={**HEADERS, "Cache-Control": "private, max-age=86400"})


def _none(why: str) -> Response:
    return Response(why, status_code=404, media_type="text/plain", headers=HEADERS)

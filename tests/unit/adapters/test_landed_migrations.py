"""A migration that landed never changes: databases have applied it as it was."""

from __future__ import annotations

from quel_dagster.adapters.database.migrations import migrations

#: every migration, by its SHA-256. A new file gets a line here; a line that is here is never changed.
LANDED = {
    "0001_baseline": "68e2d863d7636d4a03ff6afe585d8779e60a3be564d78a767a91c9ece3b1b673",
    "0002_picture_slots": "6f4ce6bad3c00b32ead6536c6e50209c5004dbecc36d7007be906ec6c13af637",
    "0010_action_log": "c702297b5adcd4256c661823d92f12f4295156eb23b53d658f4d6491fa7bea0d",
    "0020_platform": "b02c70c193eaa5bbdae10deefc1013ffff55fd9d2cfd33da1987bb1c2854b640",
    "0030_picture_usage": "9e3b7e825398d1ef376b0701d7e9d9059af06803552e55771e70bb962be2c09f",
    "0040_process_deaths": "f179d3734d08f65478d807f20112874cad820fdfa13ae1f34be8de70f7f84f7e",
}


def test_a_landed_migration_is_unchanged() -> None:
    found = {f"{each.number:04d}_{each.name}": each.sha256 for each in migrations()}
    changed = sorted(name for name in LANDED if found.get(name) != LANDED[name])
    assert not changed, "write the change as a new file with the next number, and leave this one as it was"


def test_every_migration_is_listed() -> None:
    found = {f"{each.number:04d}_{each.name}": each.sha256 for each in migrations()}
    missing = {name: sha256 for name, sha256 in found.items() if name not in LANDED}
    assert not missing, f"add to LANDED, once it is final: {missing}"

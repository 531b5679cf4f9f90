"""Assign the reference pictures of a unit to roles, and decide which the model sees (domain.md §5, §6)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from quel_dagster.jobs.categories.category import BACKGROUND, CategoryStyle, Layout, Role
from quel_dagster.jobs.model import Arrangement, LostReference, PartLayout, Reference, Unit
from quel_dagster.jobs.texts import shown


@dataclass(frozen=True)
class Cast:
    """The pictures of every role, in the order of the roles, and the references left out."""

    roles: tuple[tuple[Role, tuple[int, ...]], ...]
    #: role → pictures asked for; they decide the scene
    asked: Mapping[str, int]
    lost: tuple[LostReference, ...]
    #: the shot's filter was applied to the references, so the prompt must be filtered too
    filtered: bool
    warnings: tuple[str, ...]

    @property
    def attach_ids(self) -> tuple[int, ...]:
        """Return every picture once, in the order shown."""
        return tuple(dict.fromkeys(attach_id for _, ids in self.roles for attach_id in ids))

    @property
    def pictures(self) -> dict[str, int]:
        """Return the number of pictures per role."""
        return {role.name: len(ids) for role, ids in self.roles}

    def parts(self) -> Iterator[tuple[Role, PartLayout]]:
        """Yield the image parts of the request, in order, each with its role."""
        for role, ids in self.roles:
            for arrangement, chunk in _chunks(role.layout, ids):
                yield role, PartLayout(role=role.name, arrangement=arrangement, attach_ids=chunk)


def cast(unit: Unit, style: CategoryStyle, available: Collection[int] | None = None) -> Cast:
    """Give every reference its role: type rules, then the shot's filter, then the role limits.

    References outside `available` (None: all are available) are left out last: the scene depends on the references
    asked for, not on those that could be downloaded (domain.md §5).
    """
    warnings: list[str] = []
    references = [reference for reference in unit.references if _has_role(reference, style, warnings)]
    kept, filtered = _within_shot(references, unit, style, warnings)
    asked: list[tuple[Role, list[int]]] = []
    for role in style.roles:
        ids = list(dict.fromkeys(ref.attach_id for ref in kept if style.role_of(ref.type) == role))
        for attach_id in ids[role.limit :] if role.limit is not None else ():
            warnings.append(f"reference {attach_id} left out: {style.category} takes {role.limit} {role.name} at most")
        asked.append((role, ids[: role.limit]))
    lost = _lost(asked, available)
    warnings.extend(f"reference {ref.attach_id} ({ref.role}) left out: it could not be fetched" for ref in lost)
    return Cast(
        roles=tuple((role, tuple(i for i in ids if available is None or i in available)) for role, ids in asked),
        asked={role.name: len(ids) for role, ids in asked},
        lost=lost,
        filtered=filtered,
        warnings=tuple(warnings),
    )


def _lost(asked: list[tuple[Role, list[int]]], available: Collection[int] | None) -> tuple[LostReference, ...]:
    if available is None:
        return ()
    some_product = any(role.product and attach_id in available for role, ids in asked for attach_id in ids)
    return tuple(
        LostReference(
            attach_id=attach_id, role=role.name, essential=role.identity or (role.product and not some_product)
        )
        for role, ids in asked
        for attach_id in ids
        if attach_id not in available
    )


def _has_role(reference: Reference, style: CategoryStyle, warnings: list[str]) -> bool:
    if style.role_of(reference.type) is not None:
        return True
    kind = shown(reference.type)
    warnings.append(f"reference {reference.attach_id} left out: type {kind} is unknown in {style.category}")
    return False


def _within_shot(
    references: list[Reference], unit: Unit, style: CategoryStyle, warnings: list[str]
) -> tuple[list[Reference], bool]:
    """Return the references that the shot can show, and whether its filter was applied.

    The filter assumes a body in the frame. It is not applied when it would remove every picture except the background:
    the unit then shows just those pictures.
    """
    shot = style.shot_named(unit.shot)
    shot_filter = style.shot_filters.get(shot) if shot else None
    if shot_filter is None:
        return references, False
    subjects = [ref for ref in references if not _is_background(ref, style)]
    if subjects and all(ref.type in shot_filter.types for ref in subjects):
        warnings.append(f"shot {shot} cannot show any of the references; they are kept and shown by themselves")
        return references, False
    for ref in references:
        if ref.type in shot_filter.types:
            warnings.append(f"reference {ref.attach_id} ({ref.type}) left out: not in the frame of a {shot} shot")
    return [ref for ref in references if ref.type not in shot_filter.types], True


def _is_background(reference: Reference, style: CategoryStyle) -> bool:
    role = style.role_of(reference.type)
    return role is not None and role.name == BACKGROUND


def _chunks(layout: Layout, ids: tuple[int, ...]) -> Iterator[tuple[Arrangement, tuple[int, ...]]]:
    size, joined = {
        Layout.EACH: (1, Arrangement.SINGLE),
        Layout.GRID: (max(len(ids), 1), Arrangement.GRID),
        Layout.PAIRS: (2, Arrangement.PAIR),
    }[layout]
    for start in range(0, len(ids), size):
        chunk = ids[start : start + size]
        yield (joined if len(chunk) > 1 else Arrangement.SINGLE), chunk

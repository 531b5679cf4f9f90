"""Distribute the pictures of a job over its units (domain.md §4, "How many pictures").

Invariant: with a positive `total` the shares add up to exactly `total` and none is negative. A unit with a given
quantity gets less only if every unit after it gets nothing, and more only if it is the last unit and every quantity
was given.
"""

from __future__ import annotations

from collections.abc import Sequence


def share_out(total: int, given: Sequence[int | None]) -> list[int]:
    """Return the number of pictures of each unit, in order; a share may be 0.

    `given` holds the quantity of each unit (positive), None where it was not given; it may not be empty.
    Given quantities are taken in order, units without one share what is left as evenly as possible (earlier
    units get the odd ones), a surplus is cut from the end, a shortage goes to the last unit. Without a
    positive `total` the given quantities stand and open ones get nothing.
    """
    if total <= 0:
        return [quantity or 0 for quantity in given]
    left = total
    shares = []
    for quantity in given:
        shares.append(min(quantity or 0, left))
        left -= shares[-1]
    open_units = [i for i, quantity in enumerate(given) if quantity is None]
    if open_units:
        each, odd = divmod(left, len(open_units))
        for nth, i in enumerate(open_units):
            shares[i] = each + (1 if nth < odd else 0)
    else:
        shares[-1] += left
    return shares

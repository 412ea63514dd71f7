"""Which branches become features."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from mlaas.data.access import redacted
from mlaas.data.files import Branch, EventFile
from mlaas.errors import DataError, nearest

_IDENTIFIER = re.compile(r"(run|event|evt|lumi|luminosity|lumi_?section)_?(no|nr|num|number|id|block|section)?", re.I)  # EventNumber, lumi_block


@dataclass(frozen=True)
class Choice:
    """The branches that shall be features, in the file's order, and why others are not (identifiers and deselected ones are not listed)."""

    wanted: tuple[str, ...]
    left_out: Mapping[str, str]


def choose(file: EventFile, *, selected: Sequence[str], excluded: Sequence[str], identifier: Sequence[str], hidden: Collection[str] = ()) -> Choice:
    """Choose the features of a file.

    selected, excluded: names or wildcards, or one name of a file that lists them; empty `selected` takes all. identifier: names left out.
    hidden: names that are left out unless they are selected by their exact name (the weight's branches).
    Raises DataError for names that match nothing.
    """
    chosen = names_in(selected)
    dropped = names_in(excluded)
    _check("selected_branches", chosen, file)
    _check("exclude_branches", dropped, file)
    wanted = []
    for name in file.branches:
        exact = name in chosen
        inside = exact or not chosen or _any(name, chosen)
        outside = _any(name, dropped) or (not exact and (name in hidden or _any(name, identifier)))
        if inside and not outside:
            wanted.append(name)
    left_out = {name: reason for name, reason in file.excluded.items() if (not chosen or _any(name, chosen)) and not _any(name, dropped)}
    unusable = [name for name in chosen if name in file.excluded]
    if unusable:
        raise DataError(f"params.selected_branches: {unusable[0]!r} cannot be a feature ({file.excluded[unusable[0]]})")
    if not file.branches:
        name, reason = next(iter(file.excluded.items()), ("the tree", "it has no branches"))
        raise DataError(f"{file.path}: no branch can be a feature, e.g. {name} ({reason})")
    if not wanted:
        raise DataError(f"{file.path}: no branch is left to be a feature; check selected_branches, exclude_branches and identifier")
    return Choice(tuple(wanted), left_out)


def doubtful_identifiers(file: EventFile, given: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """What is to be told of identifiers: names that the user gave and no branch has, and features that are named like identifiers."""
    known = [*file.branches, *file.excluded]
    told = []
    for pattern in given:
        if not any(_any(name, [pattern]) for name in known):
            told.append(f"params.identifier: there is no branch {pattern!r} in {redacted(file.path)}{nearest(pattern, known)}")
    alike = [name for name in wanted if _IDENTIFIER.fullmatch(name) and file.branches[name].kind == "flat"]
    if alike:
        told.append(f"features that are named like identifiers: {', '.join(alike)}; if they are, name them in params.identifier")
    return told


def names_in(given: Sequence[str]) -> list[str]:
    """The names (or wildcards) themselves, or those in the file that a single one names."""
    if len(given) != 1 or not os.path.isfile(given[0]):  # noqa: PTH113 (any text may be asked for, also one too long for a path)
        return list(given)
    try:
        lines = [line.strip() for line in Path(given[0]).read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list of branches {given[0]} cannot be read ({error}); give a text file with one name per line") from None
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise DataError(f"the list of branches {given[0]} names none; give one name per line")
    return names


def _any(name: str, patterns: Sequence[str]) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _check(field: str, patterns: Sequence[str], file: EventFile) -> None:
    """Each pattern must match something."""
    known = [*file.branches, *file.excluded]
    for pattern in patterns:
        if not any(_any(name, [pattern]) for name in known):
            what = "no branch matches" if re.search(r"[*?\[]", pattern) else "there is no branch"
            raise DataError(f"params.{field}: {what} {pattern!r} in {file.path}{nearest(pattern, known)}")


def agree(first: EventFile, other: EventFile, names: Sequence[str]) -> None:
    """Check that another file offers the same branches of the same kind. Raises DataError naming the first difference."""
    for name in names:
        mine = first.branches[name]
        theirs: Branch | None = other.branches.get(name)
        if theirs is None:
            why = f" as a number or list of numbers ({other.excluded[name]})" if name in other.excluded else ""
            raise DataError(
                f"{other.path} lacks branch {name!r}{why}, which {first.path} has{nearest(name, other.branches)};"
                " leave it out with params.exclude_branches"
            )
        if theirs.kind != mine.kind:
            raise DataError(
                f"branch {name!r} is {mine.kind} in {first.path} but {theirs.kind} in {other.path}; leave it out with params.exclude_branches"
            )


def agree_with(file: EventFile, branches: Mapping[str, Branch]) -> None:
    """Check that a file offers these branches with these kinds. Raises DataError naming the first that it does not."""
    for name, wanted in branches.items():
        found = file.branches.get(name)
        if found is None:
            why = f" ({file.excluded[name]})" if name in file.excluded else nearest(name, file.branches)
            raise DataError(f"{file.path} has no usable branch {name!r}, which the model needs{why}")
        if found.kind != wanted.kind:
            raise DataError(f"branch {name!r} is {found.kind} in {file.path}, but the model was trained with it {wanted.kind}")

"""What is said of one hyperparameter where it is declared, and how it is read back from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import Field
from pydantic.fields import FieldInfo

FIXED = "every trial of a study must have the same"
"""Why most of the settings that are not searched are not."""

LARGEST = 2**53
"""Of a number without a bound of its own: up to here whole numbers are exact as floats, whatever computes with them."""


def hyperparameter(
    default: Any,
    doc: str,
    *,
    section: str,
    derived: str | None = None,
    aliases: tuple[str, ...] = (),
    unit: str = "",
    fixed: str = "",
    needs: Mapping[str, tuple[str, ...]] | None = None,
    documented: tuple[float, float] | None = None,
    **bounds: Any,
) -> Any:
    """The field of one.

    derived: the other hyperparameter whose value is the default, or "budget" where the study's budget decides.
    fixed: why a range is refused; empty where it may be searched. needs: the hyperparameter and its values under which this
    one does anything; giving it elsewhere is an error. documented: the range that the source document names.
    bounds: ge, gt, le, lt, in the hyperparameter's own unit.
    """
    return Field(
        default,
        description=doc,
        json_schema_extra={
            "section": section,
            "derived": derived,
            "aliases": list(aliases),
            "unit": unit,
            "fixed": fixed,
            "needs": {name: list(values) for name, values in (needs or {}).items()},
            "documented": list(documented) if documented else None,
        },
        **bounds,
    )


@dataclass(frozen=True)
class Hyperparameter:
    """What its field says."""

    name: str
    section: str
    doc: str
    kind: Literal["int", "float", "bool", "str", "choice", "number"]
    """`number`: whole or not, as it comes; of an interval, and of an expression in a space for another trainer."""
    default: Any
    derived: str | None
    optional: bool
    choices: tuple[str, ...]
    low: float | None
    """Smallest value; excluded where `low_open`."""
    low_open: bool
    high: float | None
    high_open: bool
    aliases: tuple[str, ...]
    unit: str
    fixed: str
    """Why a range is refused; empty where it may be searched."""
    needs: dict[str, tuple[str, ...]]
    documented: tuple[float, float] | None

    @property
    def default_text(self) -> str:
        """The default as the reference table shows it: `0.1`, `= d_model`, `from the budget`, `off`."""
        if self.derived:
            return "from the budget" if self.derived == "budget" else f"= {self.derived}"
        if self.default is None:
            return "off"
        return str(self.default).lower() if isinstance(self.default, bool) else f"{self.default}"


def described(name: str, field: FieldInfo) -> Hyperparameter:
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    annotation: Any = field.annotation
    optional = type(None) in get_args(annotation)
    if optional:
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    kinds: dict[Any, Any] = {int: "int", float: "float", int | float: "number", bool: "bool", str: "str"}
    limits = {type(part).__name__.lower(): part for part in field.metadata}

    def limit(which: str) -> float | None:
        found = limits.get(which)
        return None if found is None else float(getattr(found, which))

    low_open, high_open = "gt" in limits, "lt" in limits
    return Hyperparameter(
        name=name,
        section=str(extra["section"]),
        doc=field.description or "",
        kind="choice" if choices else kinds[annotation],
        default=field.default,
        derived=extra["derived"],  # type: ignore[arg-type]
        optional=optional,
        choices=choices,
        low=limit("gt") if low_open else limit("ge"),
        low_open=low_open,
        high=limit("lt") if high_open else limit("le"),
        high_open=high_open,
        aliases=tuple(extra["aliases"]),  # type: ignore[arg-type]
        unit=str(extra["unit"]),
        fixed=str(extra["fixed"]),
        needs={key: tuple(values) for key, values in extra["needs"].items()},  # type: ignore[union-attr, arg-type]
        documented=tuple(extra["documented"]) if extra["documented"] else None,  # type: ignore[arg-type]
    )

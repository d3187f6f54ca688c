"""Settings of `fused`: which parts, and how their lists become one."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, field_validator, model_serializer, model_validator

from harness.coverage import DamagePolicy
from harness.errors import ClamrBenchError
from harness.fusion import RRF_K, Method, check_weights
from harness.settings import Settings
from harness.types import Modality
from retrievers.fused.routing.settings import RouterSettings


class PartSettings(Settings):
    """One part: a retriever, perhaps only some of what it scores.

    ``clip/tiny@video+ocr`` is short for ``{retriever: clip/tiny, modalities: [video, ocr]}``.
    """

    retriever: str = Field(description="Address of the retriever.")
    modalities: tuple[str, ...] | None = Field(
        None, min_length=1, description="The only modalities that it scores; default: all it reads."
    )
    settings: dict[str, Any] = Field({}, description="Settings of the retriever.")
    weight: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="Its weight [1]; not with `weights`."
    )
    label: str | None = Field(
        None, min_length=1, description="What to call it; default: address@modalities."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        address, at, names = given.rpartition("@")
        if not at:
            return {"retriever": given}
        return {"retriever": address, "modalities": names.split("+")}

    @field_validator("modalities")
    @classmethod
    def _known(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is None:
            return None
        try:
            return tuple(m.label for m in sorted({Modality.parse(name) for name in names}))
        except ClamrBenchError as error:
            raise ValueError(
                f"{error} An address that has an @ itself is written {{retriever: ADDRESS}}."
            ) from None

    @model_serializer
    def _short(self) -> str | dict[str, Any]:
        """Write a part as it is mostly given: tables show it."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        given = {name: value for name, value in values.items() if value not in (None, {})}
        if given.keys() <= {"retriever", "modalities"} and ("@" not in self.retriever):
            return self.name
        if self.modalities is not None:
            given["modalities"] = list(self.modalities)
        return given

    @property
    def name(self) -> str:
        """What the part is called."""
        if self.label is not None:
            return self.label
        names = "" if self.modalities is None else f"@{'+'.join(self.modalities)}"
        return self.retriever + names

    @property
    def mask(self) -> frozenset[Modality] | None:
        """The only modalities that it scores, or None for all."""
        if self.modalities is None:
            return None
        return frozenset(map(Modality.parse, self.modalities))


class FusedSettings(Settings):
    """Settings of `Fused`."""

    parts: tuple[PartSettings, ...] = Field(
        (),
        description="Retrievers, each as address or address@modality+modality, or as a mapping of "
        "retriever, modalities, settings, weight and label.",
    )
    method: Method = Field(Method.RRF, description="How scores are fused; see docs/fusion.md.")
    weights: tuple[float, ...] | None = Field(
        None, description="A weight for each part, instead of `weight` in each."
    )
    rrf_k: int = Field(RRF_K, ge=0, description="Constant of method rrf.")
    depth: int | None = Field(
        None, ge=1, description="Documents taken from each part; default: k, at least 1,000."
    )
    on_damaged: DamagePolicy | None = Field(
        None, description="What a damaged media file does, for all parts that read media."
    )
    router: RouterSettings | None = Field(
        None, description="Chooses the weights for each query: oracle, prototypes or endpoint."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [part.name for part in self.parts]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two parts are called {twice!r}: give one of them another `label`")
        own = [part.name for part in self.parts if part.weight is not None]
        if self.weights is not None and own:
            raise ValueError(f"weights are given for all parts, and for {own[0]!r} by itself")
        if self.router is not None and (self.weights is not None or own):
            raise ValueError("weights and a router exclude each other: the router chooses them")
        if self.parts:
            try:
                check_weights(self.part_weights, len(self.parts), self.method)
            except ClamrBenchError as error:
                raise ValueError(str(error)) from None
        return self

    @property
    def part_weights(self) -> tuple[float, ...]:
        """The weight of each part, where no router chooses it."""
        if self.weights is not None:
            return self.weights
        return tuple(1.0 if part.weight is None else part.weight for part in self.parts)

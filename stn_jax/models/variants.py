"""The study's networks by their names: which map each transformer warps, and which it reads."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Variant:
    """A network of the study by its name: "cnn", or "stn-" with a kind and a depth.

    Attributes:
      kind: None (no transformer), "c" (the localization network reads the map that is warped), "sl"
        (it reads shared layers' features, the input is warped) or "dl" (it has separate layers of
        its own, the input is warped).
      depth: number of blocks before the localization network's input.
      count: number of transformers of the same map in parallel, see :meth:`parse`.
    """

    kind: str | None
    depth: int
    count: int = 1

    @classmethod
    def parse(cls, name: str) -> "Variant":
        """Parses "cnn", "stn-c0", "stn-sl1", "stn-dl2", ...; and "stn-c0x2" for two in parallel.

        Raises:
          ValueError: it is anything else; or several in parallel would read shared layers, which
            cannot see both the map that is warped and the stacked outputs.
        """
        match = re.fullmatch(r"cnn|stn-(c|sl|dl)(\d{1,3})(?:x(\d))?", str(name))
        if match is None:
            raise ValueError(
                f"variant is {name!r}; expected cnn, or stn-cX, stn-slX or stn-dlX with a depth X "
                "(stn-c0, stn-sl1, ...), or several in parallel (stn-c0x2)"
            )
        variant = cls(match[1], int(match[2] or 0), int(match[3] or 1))
        if match[3] and (variant.count < 2 or variant.warp_depth != variant.localization_depth):
            raise ValueError(
                f"variant is {name!r}; expected 2 to 9 transformers in parallel, and none that "
                "reads shared layers (stn-c0x2, stn-dl1x2, ...)"
            )
        return variant

    @classmethod
    def parse_all(cls, name: str) -> tuple["Variant", ...]:
        """Parses the name of a network with any number of transformers: "cnn", "stn-sl1+c1", ...

        Raises:
          ValueError: a part is not a variant, or warps a map before the one that its predecessor
            warps.
        """
        first, *further = str(name).split("+")
        variants = (cls.parse(first), *(cls.parse(f"stn-{part}") for part in further))
        depths = [variant.warp_depth for variant in variants]
        if further and (variants[0].kind is None or sorted(depths) != depths):
            raise ValueError(
                f"variant is {name!r}; expected transformers in the order of the maps that they "
                "warp, from the input on (stn-c0+c1, stn-sl1+c1, ...)"
            )
        return variants

    @property
    def warp_depth(self) -> int:
        """Number of blocks before the map that is warped."""
        return self.depth if self.kind == "c" else 0

    @property
    def localization_depth(self) -> int:
        """Number of blocks, shared with the classifier, before the localization network."""
        return 0 if self.kind == "dl" else self.depth

    def names(self) -> list[str]:
        """Names of its transformers: "c0"; of those in parallel "c0, 1 of 2" and so on."""
        if self.kind is None:
            return []
        name, count = f"{self.kind}{self.depth}", self.count
        return [name if count == 1 else f"{name}, {i} of {count}" for i in range(1, count + 1)]


def transformer_names(variant: str) -> list[str]:
    """The names of a network's transformers, in their order: "c0" and "c1" of "stn-c0+c1"."""
    return [name for part in Variant.parse_all(variant) for name in part.names()]

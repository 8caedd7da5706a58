"""Disturbances of photographs of digits, at several strengths."""

from typing import Any, NamedTuple

from benchmarks.scenes import BLACK, WHITE, Scene


class Case(NamedTuple):
    """A disturbance at one strength."""

    disturbance: str
    strength: str
    scene: Scene
    bearable: bool = True  # whether it would not disturb a person

    @property
    def name(self) -> str:
        return f"{self.disturbance}, {self.strength}"


def _cases(disturbance: str, *strengths: tuple[str, dict[str, Any]], hard: int = 0) -> list[Case]:
    """A disturbance at several strengths; the last ``hard`` of them would disturb a person."""
    last = len(strengths) - hard
    return [
        Case(disturbance, name, Scene(**values), i < last)
        for i, (name, values) in enumerate(strengths)
    ]


_ON_PAPER: dict[str, Any] = {"ruling": "squares", "line": 0.2, "pen": 8, "size": 150}
CASES: tuple[Case, ...] = (
    *_cases("even light", ("paper 235, ink 40", {})),
    *_cases(
        "light falls off",
        *((f"{x} %", {"falloff": x / 100}) for x in (20, 50, 80)),
        hard=1,
    ),
    *_cases("hard shadow", *((f"{x} %", {"shadow": x / 100}) for x in (20, 35, 50)), hard=1),
    *_cases(
        "soft shadow",
        *((f"{x} %", {"shadow": x / 100, "softness": 12}) for x in (20, 35, 50)),
    ),
    *_cases("sensor noise", *((f"{x} of 255", {"noise": x}) for x in (5, 10, 20, 40)), hard=1),
    *_cases("JPEG", *((f"quality {x}", {"quality": x}) for x in (75, 30, 10)), hard=1),
    *_cases(
        "specks",
        ("1, of one pixel", {"specks": 1, "speck_side": 1}),
        ("10, up to 2 pixels", {"specks": 10}),
        ("30, up to 4 pixels", {"specks": 30, "speck_side": 4}),
    ),
    *_cases(
        "ruled paper",
        *((f"lines {x} % as dark", {"ruling": "lines", "line": x / 100}) for x in (15, 30, 50, 80)),
        hard=1,
    ),
    *_cases(
        "squared paper",
        *(
            (f"lines {x} % as dark", {"ruling": "squares", "line": x / 100})
            for x in (15, 30, 50, 80)
        ),
        hard=1,
    ),
    *_cases(
        "paper and ink",
        ("blue on yellow", {"paper": (240, 220, 120), "ink": (30, 40, 150)}),
        ("red on white", {"ink": (200, 30, 40)}),
        ("red on pink", {"paper": (250, 190, 190), "ink": (190, 40, 50)}),
        ("brown on tan", {"paper": (200, 170, 130), "ink": (70, 45, 30)}),
        ("pencil (150 on 235), noise 5", {"ink": (150, 150, 150), "noise": 5}),
        ("yellow on white", {"ink": (235, 210, 60)}),
    ),
    *_cases(
        "light ink on dark ground",
        ("235 on 40", {"paper": BLACK, "ink": WHITE}),
        (
            "chalk on a green board, light falls off by 40 %, noise 5",
            {"paper": (50, 80, 60), "ink": (220, 220, 210), "falloff": 0.4, "noise": 5},
        ),
    ),
    *_cases("blur", *((f"{x} pixels", {"blur": x}) for x in (1, 3, 8)), hard=1),
    *_cases(
        "pen, of a digit of 143 pixels",
        *((f"{x} pixels", {"pen": x}) for x in (3, 6, 12, 24, 40)),
        hard=1,
    ),
    *_cases(
        "small digit in a large page",
        ("71 of 288 pixels", {"size": 100}),
        ("36 of 288 pixels", {"size": 50}),
        ("21 of 288 pixels", {"size": 30}),
        ("36 of 288 pixels, pen 3", {"size": 50, "pen": 3}),
    ),
    *_cases("large digit", ("206 of 288 pixels", {"size": 288})),
    *_cases(
        "not alone",
        ("another, cut off at the border", {"size": 140, "neighbors": 1}),
        ("three others, cut off", {"size": 140, "neighbors": 3}),
        ("a mark of a quarter of its size", {"size": 180, "mark": 0.25}),
        ("a mark of half its size", {"size": 150, "mark": 0.5}),
    ),
    *_cases(
        "perspective",
        ("corners move by up to 10 %", {"tilt": 0.1, "size": 180}),
        ("corners move by up to 20 %", {"tilt": 0.2, "size": 150}),
    ),
    *_cases(
        "all at once, squared paper",
        (
            "mild",
            {**_ON_PAPER, "falloff": 0.3, "noise": 4, "quality": 75, "blur": 0.7, "tilt": 0.04}
            | {"shadow": 0.15, "softness": 8},
        ),
        (
            "stronger, with another digit",
            {**_ON_PAPER, "falloff": 0.4, "noise": 8, "quality": 50, "blur": 1.2, "tilt": 0.08}
            | {"shadow": 0.3, "softness": 6, "specks": 5, "neighbors": 1},
        ),
    ),
)

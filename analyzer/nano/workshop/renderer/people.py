"""People: their looks, poses and drawing.

Lengths are metres, times seconds of the scene.
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.random import Generator
from PIL import Image

from analyzer.nano.workshop.renderer import body
from analyzer.nano.workshop.renderer.actors import Mark, TimedLabel, random_colour
from analyzer.nano.workshop.renderer.body import Pose
from analyzer.nano.workshop.renderer.camera import PERSON_HEIGHT, PinholeCamera
from analyzer.nano.workshop.renderer.path import Mover
from analyzer.nano.workshop.renderer.stage import DrawingStage, Paint, Patch, around, darker
from analyzer.nano.workshop.renderer.textures import PhotographSource, cloth


@dataclass(frozen=True, slots=True, kw_only=True)
class Appearance:
    """Clothes, skin and build of a person."""

    top: Paint
    legs: Paint
    skin: Paint
    hair: Paint
    size: float
    wide: float
    skirt: bool
    garment: Image.Image
    temper: float

    @classmethod
    def random(cls, r: Generator, photographs: PhotographSource | None) -> Self:
        """Return random looks; a tenth are children, dark clothes are commoner than bright."""
        tone, child = r.uniform(0.3, 1), r.random() < 0.1
        shape = (0.5, 1.0, 1.6)[r.integers(3)]
        return cls(
            top=random_colour(r, shape),
            legs=darker(random_colour(r, 1.6), 0.8),
            skin=(int(225 * tone), int(178 * tone), int(148 * tone)),
            hair=darker((150, 120, 80), r.uniform(0.1, 1.3)),
            size=r.uniform(0.6, 0.8) if child else r.normal(1, 0.06),
            wide=r.uniform(0.85, 1.3),
            skirt=bool(r.random() < 0.2),
            garment=cloth(r, photographs),
            temper=float(r.uniform(0, 6)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Person(Mover):
    """A person on a path, with poses, bags and labels during spans of it."""

    appearance: Appearance
    poses: tuple[TimedLabel, ...] = ()
    labels: tuple[TimedLabel, ...] = ()
    carries: tuple[TimedLabel, ...] = ()
    facing: float | None = None
    seat: float = 0.45
    _last: dict[float, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def marks(self, t: float, camera: PinholeCamera) -> list[Mark]:
        pose, speed = self._pose(t), self.path.speed(t)
        labels = {"person", *(tell.label for tell in self.labels if tell.is_active(t))}
        if pose.label == Pose.LIE:
            labels.add("lying")
        elif pose.label == Pose.HIT:
            labels.add("fighting")
        elif pose.label in {Pose.SIT, Pose.CROUCH}:
            labels.add("sitting")
        elif speed < 0.25:
            labels.add("standing")
        elif speed > 2.2:
            labels.add("running")
        low = 0.15 if pose.label == Pose.LIE else 0.5 * PERSON_HEIGHT * self.appearance.size
        return [Mark(label, *camera.picture_point(*self.at(t), low)) for label in sorted(labels)]

    def _pose(self, t: float) -> TimedLabel:
        return next((pose for pose in self.poses if pose.is_active(t)), _UPRIGHT)

    def joints(self, t: float) -> np.ndarray:
        """Return the joints (13, 3) in the world."""
        if t not in self._last:
            self._last.clear()
            self._last[t] = self._joints_of_pose(t)
        return self._last[t]

    def _joints_of_pose(self, t: float) -> np.ndarray:
        pose, speed = self._pose(t), self.path.speed(t)
        match pose.label:
            case Pose.SIT:
                joints = body.sitting(self.seat)
            case Pose.CROUCH:
                joints = body.crouching(t)
            case Pose.HIT:
                joints = body.hitting(t, self.appearance.temper)
            case Pose.TALK:
                joints = body.talking(t, self.appearance.temper)
            case Pose.LIE:
                fallen = np.clip(min((t - pose.start) / 0.7, (pose.end - t) / 1.2), 0, 1)
                joints = body.lying(body.walking(0.4, 1.0), fallen, self.appearance.temper)
            case _:
                joints = body.walking(self.path.walked(t), speed)
        heading = self.path.heading(t)
        if self.facing is not None and speed < 0.25:
            heading = self.facing
        X, Z = self.at(t)
        return body.turned(joints, heading) * self.appearance.size + (X, 0, Z)

    def draw(self, stage: DrawingStage) -> None:
        joints = self.joints(stage.t)
        looks, wide = self.appearance, self.appearance.wide
        metre = stage.camera.scale(*self.at(stage.t)) * stage.height * looks.size
        points, depth = stage.pixels(joints), stage.camera.project(joints)[:, 2]
        patch = Patch(points, 0.22 * metre)
        hips = np.stack([points[body.PELVIS]] * 2)
        order = (0, 1) if depth[body.ARMS[0][0]] > depth[body.ARMS[1][0]] else (1, 0)
        self._arm(patch, points, order[0], metre, 0.75)
        for nth, side in enumerate(order):
            knee, ankle = body.LEGS[side]
            leg = np.stack([points[body.PELVIS], points[knee], points[ankle]])
            patch.limb(leg, 0.15 * metre * wide, darker(looks.legs, 0.75 + 0.25 * nth))
            patch.disc(points[ankle], 0.08 * metre, 0.06 * metre, darker(looks.hair, 0.6))
        shoulders = points[[body.ARMS[0][0], body.ARMS[1][0]]]
        trunk = np.concatenate([shoulders, hips + [[0.1 * metre, 0], [-0.1 * metre, 0]]])
        if looks.skirt:
            patch.limb(np.stack([hips[0], points[[3, 5]].mean(0)]), 0.36 * metre * wide, looks.legs)
        patch.limb(points[[body.NECK, body.PELVIS]], 0.3 * metre * wide, looks.top)
        patch.face(around(trunk), looks.top)
        self._head(patch, points, metre)
        self._arm(patch, points, order[1], metre, 1.0)
        if any(carried.is_active(stage.t) for carried in self.carries):
            hand = points[body.ARMS[order[1]][2]] + (0, 0.2 * metre)
            patch.disc(hand, 0.17 * metre, 0.2 * metre, darker(looks.hair, 0.7))
        patch.paste(stage, looks.garment)

    def _arm(self, patch: Patch, points: np.ndarray, side: int, metre: float, light: float) -> None:
        shoulder, elbow, hand = body.ARMS[side]
        top = darker(self.appearance.top, 0.9 * light)
        patch.limb(points[[shoulder, elbow, hand]], 0.1 * metre * self.appearance.wide, top)
        patch.disc(points[hand], 0.05 * metre, 0.05 * metre, darker(self.appearance.skin, light))

    def _head(self, patch: Patch, points: np.ndarray, metre: float) -> None:
        crown = points[body.CROWN]
        up = (crown - points[body.NECK]) * 0.25
        patch.disc(crown, 0.105 * metre, 0.125 * metre, self.appearance.skin)
        patch.disc(crown + up, 0.108 * metre, 0.1 * metre, self.appearance.hair)

    def shade(self, stage: DrawingStage) -> None:
        joints, (X, Z) = self.joints(stage.t), self.at(stage.t)
        stage.puddle(X, Z, 0.22 * self.appearance.size)
        for chain, width in _CHAINS:
            stage.cast(joints[chain], width)


_UPRIGHT = TimedLabel(Pose.UPRIGHT, -np.inf, np.inf)
_CHAINS = (
    ([body.PELVIS, *body.LEGS[0]], 0.16),
    ([body.PELVIS, *body.LEGS[1]], 0.16),
    ([body.PELVIS, body.NECK, body.CROWN], 0.34),
)

"""How people hold themselves: joints of a body in metres, for each pose.

Joints are (13, 3): across (to the person's left), up, ahead. A person's own height scales them.
"""

from enum import StrEnum

import numpy as np

HIP, KNEE, ANKLE, SHOULDER, HEAD = 0.9, 0.48, 0.06, 1.42, 1.62
PELVIS, NECK, CROWN = 0, 1, 2
LEGS = ((3, 4), (5, 6))
"""Knee and ankle, left and right."""
ARMS = ((7, 8, 9), (10, 11, 12))
"""Shoulder, elbow and hand, left and right."""
STRIDE = 1.45
"""Metres for two steps."""


class Pose(StrEnum):
    """The pose of a person; walking and standing follow from the path."""

    UPRIGHT = "upright"
    SIT = "sit"
    CROUCH = "crouch"
    LIE = "lie"
    HIT = "hit"
    TALK = "talk"


def _leg(joints: np.ndarray, side: int, hip: float, swing: float, bend: float) -> None:
    """Let a leg hang from the hip at an angle, the knee bent, both in radians."""
    knee, ankle = LEGS[side]
    across = 0.09 if side == 0 else -0.09
    joints[knee] = across, hip - 0.42 * np.cos(swing), 0.42 * np.sin(swing)
    shin = swing - bend
    joints[ankle] = joints[knee] + (0, -0.42 * np.cos(shin), 0.42 * np.sin(shin))


def _arm(joints: np.ndarray, side: int, swing: float, bend: float, spread: float = 0.05) -> None:
    """Let an arm hang from its shoulder at an angle, the elbow bent, both in radians."""
    shoulder, elbow, hand = ARMS[side]
    across = 0.19 if side == 0 else -0.19
    out = spread if side == 0 else -spread
    neck = joints[NECK]
    joints[shoulder] = neck + (across, -0.04, 0)
    joints[elbow] = joints[shoulder] + (out, -0.29 * np.cos(swing), 0.29 * np.sin(swing))
    fore = swing + bend
    joints[hand] = joints[elbow] + (out / 2, -0.27 * np.cos(fore), 0.27 * np.sin(fore))


def walking(distance: float, speed: float) -> np.ndarray:
    """Return the joints of a person who has walked a distance (m) at a speed (m/s)."""
    joints = np.zeros((13, 3))
    phase = 2 * np.pi * distance / (STRIDE if speed < 2.2 else 2.2)
    reach = 0.0 if speed < 0.15 else (0.42 if speed < 2.2 else 0.75)
    lean = 0.02 + 0.05 * speed
    joints[PELVIS] = 0, HIP, 0
    joints[NECK] = 0, SHOULDER + 0.05, lean
    joints[CROWN] = 0, HEAD, lean * 1.2
    for side in (0, 1):
        turn = phase + np.pi * side
        _leg(joints, side, HIP, reach * np.sin(turn), 0.1 + reach * (1 + np.cos(turn)) * 0.6)
        _arm(joints, side, -0.8 * reach * np.sin(turn), 0.2 + 1.2 * reach * (speed > 2.2))
    return joints


def sitting(low: float) -> np.ndarray:
    """Return the joints of a person who sits at a height in metres."""
    joints = np.zeros((13, 3))
    joints[PELVIS] = 0, low, 0
    joints[NECK] = 0, low + 0.55, 0.04
    joints[CROWN] = 0, low + 0.75, 0.08
    for side in (0, 1):
        _leg(joints, side, low, 1.45, 1.4)
        _arm(joints, side, 0.5, 0.8)
    return joints


def crouching(t: float) -> np.ndarray:
    """Return the joints of a person who ties a shoe or reaches for the ground."""
    joints = np.zeros((13, 3))
    low = 0.45 + 0.04 * np.sin(2 * t)
    joints[PELVIS] = 0, low, -0.1
    joints[NECK] = 0, low + 0.42, 0.28
    joints[CROWN] = 0, low + 0.5, 0.47
    _leg(joints, 0, low, 1.3, 1.7)
    _leg(joints, 1, low, 0.6, 1.6)
    for side in (0, 1):
        _arm(joints, side, 0.5, 0.2)
    return joints


def hitting(t: float, temper: float) -> np.ndarray:
    """Return the joints of a person who strikes ahead, differently at each time."""
    joints = walking(0.0, 0.0)
    beat = 6.3 * t + temper
    lean = 0.16 + 0.14 * np.sin(1.7 * beat)
    joints[NECK, 2] += lean
    joints[CROWN, 2] += 1.2 * lean
    joints[NECK, 1] -= 0.05
    for side in (0, 1):
        strike = np.sin(beat + np.pi * side + 0.6 * np.sin(2.3 * beat))
        _arm(joints, side, 1.2 + 0.7 * strike, 0.9 - 0.8 * strike, 0.12)
        _leg(joints, side, HIP, (0.45 if side else -0.4) + 0.25 * np.sin(0.9 * beat), 0.25)
    return joints


def talking(t: float, temper: float) -> np.ndarray:
    """Return the joints of a person who stands and moves the hands a little."""
    joints = walking(0.0, 0.0)
    _arm(joints, 0, 0.25 + 0.2 * np.sin(1.3 * t + temper), 0.9 + 0.5 * np.sin(2.1 * t + temper))
    return joints


def lying(joints: np.ndarray, fallen: float, roll: float) -> np.ndarray:
    """Tip a body over about its feet: `fallen` from 0 (upright) to 1 (flat), sideways by `roll`."""
    tipped = joints.copy()
    angle = fallen * np.pi / 2
    up, ahead = joints[:, 1], joints[:, 2]
    tipped[:, 1] = np.maximum(up * np.cos(angle) + 0.11 * np.sin(angle), 0.05)
    along = up * np.sin(angle) - 0.8 * np.sin(angle)
    tipped[:, 2] = ahead * np.cos(angle) + along * np.cos(roll)
    tipped[:, 0] = joints[:, 0] * (1 + 0.4 * fallen) + along * np.sin(roll)
    return tipped


def turned(joints: np.ndarray, heading: float) -> np.ndarray:
    """Return joints in the world's axes for a heading: 0 is ahead, pi / 2 right."""
    sin, cos = np.sin(heading), np.cos(heading)
    across, up, ahead = joints.T
    return np.stack([ahead * sin - across * cos, up, ahead * cos + across * sin], axis=1)

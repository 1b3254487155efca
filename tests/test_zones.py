"""Zones: outlined on what the model sees, and a question says which outline it means."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from analyzer.batching import BatchedRunner
from analyzer.kv.arena.arena import AnyChunk
from analyzer.kv.budget import MemoryPlan
from analyzer.kv.encoded import EncodedWindow
from analyzer.models.messages import ScoreInput, WindowRun, YesNoScores
from analyzer.models.runner import ModelRunner
from analyzer.models.stills.overlay import build_overlay
from analyzer.models.videoxl2.config import VideoXL2Config
from analyzer.questions.question import Question
from analyzer.watcher import Watcher
from analyzer.zones import COLOURS, Zone, zones_of
from deploy.checks.model import model_problems
from deploy.config.assemble import build_questions
from deploy.config.memory_demand import build_memory_demand
from deploy.config.settings import LongwatchSettings
from deploy.config.settings_file import read_settings
from deploy.errors import BadSettings
from ingest.settings import MAX_ZONES
from kit.model.small_model import save_checkpoint, small_runner, window
from storage.records.records import Finding
from test_watcher import question, run

YARD = ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75))
GATE = ((0.5, 0.1), (0.9, 0.1), (0.9, 0.9))
SEVERAL = zones_of({"gate": GATE, "yard": YARD})
HEIGHT, WIDTH = 96, 192


def drawn(*zones: Zone, level: int = 100) -> torch.Tensor:
    """Return two grey stills of a size with zones drawn on them, as signed numbers."""
    stills = torch.full((2, 3, HEIGHT, WIDTH), level, dtype=torch.uint8)
    build_overlay(zones, HEIGHT, WIDTH).draw(stills)
    return stills.int()


def test_outline_is_thin_and_bright_and_leaves_the_rest_as_it_was() -> None:
    stills = drawn(Zone(name="yard", corners=YARD, colour="red"))
    red = torch.tensor(COLOURS["red"])
    for row, column in ((24, 96), (72, 96), (48, 48), (48, 144)):
        around = stills[0, :, row - 1 : row + 2, column - 1 : column + 2].flatten(1)
        assert (around - red[:, None]).abs().sum(0).min() < 0.6 * (red - 100).abs().sum()
    changed = (stills != 100).any(1)
    assert not changed[:, 28:68, 52:140].any(), "inside"
    assert not changed[:, :20].any()
    assert not changed[:, :, :44].any(), "outside"
    assert torch.equal(stills[0], stills[1])


def test_line_grows_with_the_size_of_the_model() -> None:
    def share(height: int) -> float:
        stills = torch.zeros(1, 3, height, height, dtype=torch.uint8)
        build_overlay([Zone(name="yard", corners=YARD, colour="white")], height, height).draw(
            stills
        )
        return float(stills.float().mean()) / 255

    assert share(384) == pytest.approx(share(768), rel=0.1)
    assert 0.01 < share(384) < 0.05


def test_zones_of_a_camera_have_colours_of_their_own() -> None:
    assert [(each.name, each.colour) for each in SEVERAL] == [("gate", "red"), ("yard", "yellow")]
    many = {f"z{n}": YARD for n in range(MAX_ZONES)}
    assert len({each.colour for each in zones_of(many)}) == MAX_ZONES == len(COLOURS)
    with pytest.raises(ValueError, match="at most 6"):
        zones_of(many | {"more": YARD})


class RecordingRunner(ModelRunner):
    """A small model that notes what is asked, and how often it sees and reads."""

    @classmethod
    def make(cls) -> "RecordingRunner":
        """Return one with random weights."""
        plain = small_runner()
        made = cls(plain.model, plain.tokenizer, plain.name)
        made.asked, made.passes = [], []
        return made

    asked: list[str]
    passes: list[str]

    def encode(self, runs: Sequence[WindowRun]) -> list[list[EncodedWindow]]:
        self.passes.append("see")
        return super().encode(runs)

    def prefill(self, windows: Sequence[Any]) -> list[AnyChunk]:
        self.passes.append("read")
        return super().prefill(windows)

    def score(self, inputs: Sequence[ScoreInput]) -> list[YesNoScores]:
        self.asked += [text for each in inputs for text in each.questions]
        return super().score(inputs)


def about(zone: Zone, *cameras: str, **changes: Any) -> Question:
    return question(
        f"in-{zone.name}", zone=zone.name, zones=dict.fromkeys(cameras, zone), **changes
    )


def test_question_about_a_zone_says_its_colour_and_its_finding_the_zone() -> None:
    runner = RecordingRunner.make()
    watching = Watcher(runner, [question(), about(SEVERAL[1], "dock")], MemoryPlan())
    plain, zoned = run(watching, [window()])
    ask = question().ask
    assert set(runner.asked) == {ask, f'The zone "yard" is outlined in yellow. {ask}'}
    assert (plain.zone, zoned.zone) == (None, "yard")


def test_second_look_and_focus_ask_about_the_same_outline() -> None:
    runner = RecordingRunner.make()
    plan = MemoryPlan(horizon=timedelta(seconds=160), recent=1, focus=1)
    watching = Watcher(runner, [about(SEVERAL[0], "dock")], plan)
    watching.answerer.calibration.observe = lambda key, margin: 0.9  # type: ignore[method-assign]
    findings = run(watching, [window(n) for n in range(4)])
    assert findings[0].second_look is not None
    assert len(runner.asked) > len(findings) + 1, "a second look, and looks for the focus"
    assert all('"gate" is outlined in red' in text for text in runner.asked)


def test_camera_without_the_zone_is_not_asked_and_sees_no_outline() -> None:
    windows = [window(n, "ramp") for n in range(2)]
    bare = Watcher(small_runner(), [question()], MemoryPlan())
    zoned = Watcher(small_runner(), [question(), about(SEVERAL[1], "dock")], MemoryPlan())
    assert run(zoned, windows) == run(bare, windows)
    assert margins(zoned, "dock") != pytest.approx(margins(bare, "dock"), abs=1e-3)


def margins(watching: Watcher, camera: str) -> list[float]:
    found = run(watching, [window(0, camera), window(1, camera)])
    return [each.margin for each in found if each.zone is None]


def test_all_questions_of_a_camera_share_one_memory_with_all_outlines() -> None:
    runner, plain = RecordingRunner.make(), RecordingRunner.make()
    both = [about(zone, "dock") for zone in SEVERAL]
    run(Watcher(runner, both, MemoryPlan()), [window()])
    run(Watcher(plain, [question(), question("q2")], MemoryPlan()), [window()])
    assert runner.passes[:2] == plain.passes[:2] == ["see", "read"]
    assert runner.passes.count("see") == plain.passes.count("see") == 1


def test_outlines_are_drawn_in_whatever_parts_a_run_is_seen() -> None:
    runner = small_runner()
    config = runner.model.config
    overlay = build_overlay(SEVERAL, config.height, config.width)
    windows = [[still.jpeg for still in window(n).stills] for n in range(3)]
    together, apart = BatchedRunner(runner), BatchedRunner(runner)
    apart._encode_limit.current = 1
    (whole,) = together.encode([WindowRun(windows, None, overlay)])
    (parts,) = apart.encode([WindowRun(windows, None, overlay)])
    (bare,) = together.encode([WindowRun(windows)])
    for one, other, plain in zip(whole, parts, bare, strict=True):
        assert isinstance(one, EncodedWindow)
        assert isinstance(other, EncodedWindow)
        assert isinstance(plain, EncodedWindow)
        torch.testing.assert_close(one.tokens_GVE, other.tokens_GVE)
        assert not torch.allclose(one.tokens_GVE, plain.tokens_GVE, atol=1e-3)


def test_version_of_a_question_stays_without_a_zone_and_changes_with_one() -> None:
    assert question().version == replace(question(), zones={"dock": SEVERAL[0]}).version
    assert len({question().version, *(about(zone, "dock").version for zone in SEVERAL)}) == 3


SITE = """\
cameras:
  dock:
    url: rtsp://10.0.0.21/sub
    zones:
      gate: [[0.5, 0.1], [0.9, 0.1], [0.9, 0.9]]
      yard: [[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]]
  ramp:
    url: rtsp://10.0.0.22/sub
    zones: {yard: [[0, 0.5], [1, 0.5], [1, 1], [0, 1]]}
  hall: {url: rtsp://10.0.0.23/sub}
questions:
  fire: {ask: "Is there a fire?"}
  inside:
    ask: "Is anybody inside the zone?"
    zone: yard
  queue:
    ask: "Does anybody wait in the zone?"
    cameras: [dock]
    zone: gate
rules:
- {name: intruder, when: inside, above: 0.8}
"""


def settings_of(folder: Path, text: str = SITE) -> LongwatchSettings:
    file = folder / "site.yaml"
    file.write_text(text)
    return read_settings(file)


def test_settings_say_which_cameras_are_asked_about_which_outline(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    fire, inside, queue = build_questions(settings)
    asked = [
        [camera for camera in settings.cameras if each.is_asked_of(camera)]
        for each in (fire, inside, queue)
    ]
    assert asked == [["dock", "ramp", "hall"], ["dock", "ramp"], ["dock"]]
    assert inside.text_for("dock").startswith('The zone "yard" is outlined in yellow. Is anybody')
    assert inside.text_for("ramp").startswith('The zone "yard" is outlined in red. Is anybody')
    assert inside.zones["dock"].corners == YARD
    assert build_memory_demand(settings).asks == tuple(
        each.text_for("dock") for each in (fire, inside, queue)
    )


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("    zone: yard", "    zone: yrad", 15, "questions.inside.zone: no zone is called 'yrad'"
         " (known: gate, yard)"),
        ("[dock]", "[dock, hall]", 18, "questions.queue.cameras.1: camera 'hall' has no zone 'gate'"
         ": add it to its zones"),
        ("{name: intruder", "{cameras: [hall], name: intruder", 21, "rules.0.cameras.0: question"
         " 'inside' is not asked of 'hall'"),
        ("[0.9, 0.9]]", "[0.9, 1.9]]", 5, "cameras.dock.zones.gate: [0.9, 1.9] is outside of the"),
        ("[0.9, 0.9]]", "[0.7, 0.1]]", 5, "cameras.dock.zones.gate: its lines cross or touch"),
        ("[0.9, 0.1], [0.9, 0.9]]", "[0.9, 0.1]]", 5, "cameras.dock.zones.gate: has 2 points"),
        ("[0.9, 0.1], [0.9, 0.9]]", "[0.9]]", 5, "cameras.dock.zones.gate.1"),
        ("      gate:", "      Gate:", 5, "cameras.dock.zones.Gate: write a name with a-z"),
        ("    zones: {yard:", "    zones: {a: &z [[0, 0], [1, 0], [1, 1]], b: *z, c: *z, d: *z,"
         " e: *z, f: *z, yard:", 9, "cameras.ramp.zones: at most 6 of them"),
    ],
)  # fmt: skip
def test_zones_that_cannot_be_meant_are_refused(
    tmp_path: Path, old: str, new: str, line: int, told: str
) -> None:
    assert SITE.count(old) == 1
    with pytest.raises(BadSettings) as refused:
        settings_of(tmp_path, SITE.replace(old, new))
    said = str(refused.value).replace(f"{tmp_path}/", "").splitlines()
    assert any(each.startswith(f"site.yaml:{line}: {told}") for each in said), said


def test_nano_is_not_asked_about_zones_and_another_model_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path)
    found = [each for each in model_problems(settings) if each.key[-1] == "zone"]
    assert [each.key[1] for each in found] == ["inside", "queue"]
    assert found[0].message == "nano was not taught zones: take `zone` out, or choose another model"
    folder = save_checkpoint(tmp_path / "other")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"conv"', '"patch"'))
    monkeypatch.setenv("LONGWATCH_MODEL__NAME", str(folder))
    assert VideoXL2Config.read(folder / "config.json").is_trained_on_outlines
    assert not [each for each in model_problems(settings_of(tmp_path)) if each.key[-1] == "zone"]


def test_camera_with_zones_that_nobody_asks_about_is_no_problem_for_nano(tmp_path: Path) -> None:
    text = SITE.replace("    zone: yard\n", "").replace("    zone: gate\n", "")
    settings = settings_of(tmp_path, text)
    assert not list(model_problems(settings))
    assert not any(each.zones for each in build_questions(settings)), "nothing is drawn"


def findings_of(watching: Watcher, count: int) -> list[Finding]:
    return run(watching, [window(n) for n in range(count)])


def test_memory_rebuilt_after_a_restart_has_the_same_outlines() -> None:
    runner, asked = small_runner(), [about(SEVERAL[1], "dock")]
    lived, again = (Watcher(runner, asked, MemoryPlan()) for _ in range(2))
    last = findings_of(lived, 4)[-1]
    assert again.restore([window(n) for n in range(3)]) == [None] * 3
    (rebuilt,) = run(again, [window(3)])
    assert rebuilt.margin == pytest.approx(last.margin, abs=1e-4)

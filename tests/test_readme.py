"""README and the operations manual match the code."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli.app import app
from deploy.config.settings_file import read_settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "deploy" / "OPERATIONS.md").read_text()
_COMMAND = r"^ {4,8}longwatch ([a-z]+(?: (?:list|status|check|upgrade|copy|replay|verify)\b)?)"


def test_the_settings_and_tests_shown_are_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tests,) = (each for each in shown if each.startswith("rules: longwatch.yaml"))
    for secret in ("KAFKA_PASSWORD", "PG_PASSWORD"):
        monkeypatch.setenv(secret, "canary")
    for name in ("DOCK_USER", "DOCK_PASSWORD"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SOC_SECRET", "whsec_" + "A" * 43 + "=")
    file = tmp_path / "longwatch.yaml"
    file.write_text("".join(each for each in shown if each != tests))
    assert read_settings(file).rules[0].name == "bag-left"
    (tmp_path / "tests.yaml").write_text(tests)
    tested = CliRunner().invoke(app, ["rules", "test", str(tmp_path / "tests.yaml")])
    assert tested.exit_code == 0, tested.output


@pytest.mark.parametrize(
    "words", sorted(set(re.findall(_COMMAND, README + OPERATIONS, re.MULTILINE)))
)
def test_the_commands_shown_exist(words: str) -> None:
    shown = CliRunner().invoke(app, [*words.split(), "--help"])
    assert shown.exit_code == 0, shown.output


def test_the_tree_shown_is_there() -> None:
    tree = README.split("## The tree\n")[1].split("\n\n")[0]
    checked = 0
    for line in tree.splitlines():
        match = re.match(r"( {4,6})(\w+)/ +(.*?)  ", line)
        assert match, line
        package = (ROOT if len(match[1]) == 4 else ROOT / "analyzer") / match[2]
        for name in match[3].split():
            assert (package / f"{name}.py").is_file() or (package / name).is_dir(), line
            checked += 1
    assert checked > 40


LINKED = [ROOT / "README.md", *ROOT.glob("*/README.md"), ROOT / "deploy" / "OPERATIONS.md"]


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_that_pages_link_to_are_there(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("target", re.findall(r"^    make (\w+)", README, re.MULTILINE))
def test_the_make_targets_shown_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)

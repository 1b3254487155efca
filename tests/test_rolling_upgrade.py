"""Services are upgraded under load: nothing is lost, nothing is posted twice."""

from pathlib import Path

import pytest

from kit.chaos.analyzer_kills import CAMERAS
from kit.chaos.rolling_analyzers import run_rolling_analyzers
from kit.chaos.rolling_upgrade import ORDERS, run_site
from kit.kafka.broker import Broker


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_upgrades_in_both_orders_lose_nothing_and_tell_nothing_twice(
    tmp_path: Path, kafka: Broker, postgres_url: str
) -> None:
    with run_site(tmp_path, kafka, postgres_url) as site:
        generation = site.start()
        generation.wait_for_line("leads")
        site.wait_until_posted(generation)
        for order in ORDERS:
            generation = order(site, generation)
        result = site.finish()
    print(site.upgrades, result)
    assert result.wrong == {}
    assert result.upgrades == len(ORDERS)
    assert result.incidents > result.upgrades


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_analyzers_restarted_in_turn_leave_no_window_out(
    tmp_path: Path, kafka: Broker, checkpoint: Path
) -> None:
    result = run_rolling_analyzers(tmp_path, kafka, 2, str(checkpoint), pace=4.0)
    print(result)
    assert (result.lost, result.shed, result.went_back) == (0, 0, 0)
    assert result.windows > len(CAMERAS)

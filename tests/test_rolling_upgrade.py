"""Services are upgraded under load: nothing is lost, nothing is posted twice."""

from pathlib import Path

import pytest
from analyzers_kills import CAMERAS
from kafka_broker import Broker
from rolling_analyzers import roll
from rolling_upgrade import ORDERS, a_site


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_upgrades_in_both_orders_lose_nothing_and_tell_nothing_twice(
    tmp_path: Path, kafka: Broker, postgres_url: str
) -> None:
    with a_site(tmp_path, kafka, postgres_url) as site:
        generation = site.start()
        generation.wait_until_said("leads")
        site.wait_until_posted(generation)
        for order in ORDERS:
            generation = order(site, generation)
        toll = site.settle()
    print(site.upgrades, toll)
    assert toll.wrong == {}
    assert toll.upgrades == len(ORDERS)
    assert toll.incidents > toll.upgrades


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_analyzers_restarted_in_turn_leave_no_window_out(
    tmp_path: Path, kafka: Broker, checkpoint: Path
) -> None:
    toll = roll(tmp_path, kafka, 2, str(checkpoint), pace=4.0)
    print(toll)
    assert (toll.lost, toll.shed, toll.went_back) == (0, 0, 0)
    assert toll.windows > len(CAMERAS)

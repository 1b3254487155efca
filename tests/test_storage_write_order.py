"""Nobody is kept from writing by who writes all the time."""

import threading
import time

from storage.fair_lock import FairLock


def test_who_waits_is_next() -> None:
    lock, taken = FairLock(), list[str]()
    waits, ended = threading.Event(), threading.Event()

    def wait() -> None:
        waits.set()
        with lock:
            taken.append("who waited")
        ended.set()

    with lock:
        thread = threading.Thread(target=wait)
        thread.start()
        waits.wait()
        time.sleep(0.05)
    for _ in range(100):
        with lock:
            taken.append("who takes it again")
    assert ended.wait(5)
    thread.join()
    assert taken[0] == "who waited"
    assert len(taken) == 101


def test_one_at_a_time() -> None:
    lock, inside, most, count = FairLock(), 0, 0, 0

    def work() -> None:
        nonlocal inside, most, count
        for _ in range(200):
            with lock:
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1
                count += 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (most, count) == (1, 1600)


def test_an_error_gives_it_on() -> None:
    lock = FairLock()
    for _ in range(2):
        try:
            with lock:
                raise KeyError
        except KeyError:
            pass

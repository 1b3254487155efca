"""Which device and precision a setting means, and what is said where a card cannot be used."""

import warnings
from dataclasses import dataclass

import pytest
import structlog
import torch

from analyzer.device import HOST, device_of, device_unusable, dtype_of, free_bytes
from analyzer.errors import ModelUnusable

NO_DRIVER = (
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and"
    " installed a driver from http://www.nvidia.com/Download/index.aspx"
)
OLD_DRIVER = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU"
    " driver by downloading and installing a new version from the URL: http://www.nvidia.com/"
    "Download/index.aspx Alternatively, go to: https://pytorch.org to install a PyTorch version"
    " that has been compiled with your version of the CUDA driver."
)
FULL = "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported.\n"
CARD = torch.device("cuda:0")


@dataclass
class Cards:
    """The cards of a machine, and what CUDA says where it does not start or a card is full."""

    count: int = 0
    trouble: str = ""
    full: str = ""

    def is_available(self) -> bool:
        if self.trouble and "driver on your" in self.trouble:
            warnings.warn(f"CUDA initialization: {self.trouble}", stacklevel=1)
        return self.count > 0 and not self.trouble

    def device_count(self) -> int:
        return self.count

    def init(self) -> None:
        if self.trouble:
            raise RuntimeError(self.trouble)

    def mem_get_info(self, _device: torch.device) -> tuple[int, int]:
        if self.full:
            raise torch.AcceleratorError(self.full)
        return 3 * 10**9, 24 * 10**9


def test_auto_takes_a_card_that_works_and_else_the_cpu() -> None:
    assert device_of("auto", Cards(count=2)) == torch.device("cuda")
    assert device_of("cpu", Cards(count=2)) == HOST
    assert device_of("cuda:1", Cards(count=2)) == torch.device("cuda:1")
    with structlog.testing.capture_logs() as logged:
        assert device_of("auto", Cards(trouble=NO_DRIVER)) == HOST
    assert logged == []


def test_auto_says_why_it_does_not_take_a_card_that_is_there() -> None:
    with structlog.testing.capture_logs() as logged:
        assert device_of("auto", Cards(count=1, trouble=OLD_DRIVER)) == HOST
    assert [line["log_level"] for line in logged] == ["warning"]
    assert "too old (found version 11040)" in logged[0]["reason"]


@pytest.mark.parametrize(
    ("cards", "device", "said"),
    [
        (Cards(trouble=NO_DRIVER), "cuda", "no NVIDIA driver on your system: install NVIDIA's"),
        (Cards(count=1, trouble=OLD_DRIVER), "cuda", "is too old .* update NVIDIA's driver, or"),
        (Cards(trouble="No CUDA GPUs are available"), "cuda:0", "CUDA_VISIBLE_DEVICES, and with"),
        (
            Cards(trouble="CUDA error: unknown error"),
            "cuda",
            "unknown error: check the output",
        ),
        (Cards(count=1), "cuda:1", r"cuda:0 is the only one.* \(with MIG a process sees one"),
        (Cards(count=4), "cuda:7", "there are cuda:0 to cuda:3.*: set model.device to one of"),
    ],
)
def test_a_card_that_cannot_be_used_is_one_line_with_what_to_do(
    cards: Cards, device: str, said: str
) -> None:
    with pytest.raises(ModelUnusable, match=said) as caught:
        device_of(device, cards)
    assert str(caught.value).startswith(f"there is no {device} here: ")
    assert "\n" not in str(caught.value)


def test_a_full_card_is_one_line_with_what_to_do() -> None:
    assert free_bytes(CARD, Cards(count=1)) == 3 * 10**9
    with pytest.raises(ModelUnusable) as caught:
        free_bytes(CARD, Cards(count=1, full=FULL))
    assert str(caught.value) == (
        "cuda:0 cannot be used: out of memory: another process fills the card: stop it, or set"
        " model.device to another card"
    )


def test_an_error_without_words_is_still_a_line() -> None:
    assert "cuda:0 cannot be used: RuntimeError: check the" in str(
        device_unusable(CARD, RuntimeError())
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_this_machine_without_a_card_says_so_in_torchs_words() -> None:
    with pytest.raises(ModelUnusable, match=r"^there is no cuda here: .*: install "):
        device_of("cuda")


def test_auto_is_what_the_family_names_on_a_card_and_float32_on_a_cpu() -> None:
    assert dtype_of("auto", HOST, "float16") is torch.float32
    assert dtype_of("auto", CARD, "float16") is torch.float16
    assert dtype_of("auto", CARD, "bfloat16") is torch.bfloat16
    assert dtype_of("float32", CARD, "float16") is torch.float32

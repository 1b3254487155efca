"""Check that the model can be used as the settings say, without loading its weights."""

from collections.abc import Callable, Iterator, Mapping

from analyzer.errors import ModelUnusable
from analyzer.models.files import ModelFiles
from analyzer.models.model_shape import ModelShape
from analyzer.models.videoxl2.config import VideoXL2Config
from analyzer.settings import MemorySettings, QuestionSettings
from deploy.config.problems import SettingProblem
from deploy.config.settings import LongwatchSettings


def model_problems(settings: LongwatchSettings) -> Iterator[SettingProblem]:
    """Yield what is wrong with the files of the model."""
    yield from _model_problems(settings, ModelFiles.find)


def shape_problems(settings: LongwatchSettings) -> Iterator[SettingProblem]:
    """Yield the same for a model that may still have to be fetched."""
    yield from _model_problems(settings, ModelShape.find)


def _model_problems(
    settings: LongwatchSettings, find: Callable[[str, str | None], ModelFiles | ModelShape]
) -> Iterator[SettingProblem]:
    try:
        config = find(settings.model.name, settings.model.revision).config
    except ModelUnusable as error:
        yield SettingProblem(key=("model", "name"), message=str(error))
    else:
        yield from _compression_problems(settings.memory, config)
        yield from _zone_problems(settings.questions, config)


def _compression_problems(
    memory: MemorySettings, config: VideoXL2Config
) -> Iterator[SettingProblem]:
    tokens = config.tokens_per_group
    if tokens % memory.compression:
        known = ", ".join(str(n) for n in range(1, tokens + 1) if tokens % n == 0)
        message = f"does not divide the {tokens} visual tokens of a group: choose one of {known}"
        yield SettingProblem(key=("memory", "compression"), message=message)


def _zone_problems(
    questions: Mapping[str, QuestionSettings], config: VideoXL2Config
) -> Iterator[SettingProblem]:
    """Yield the questions about zones if the model was not trained on outlines."""
    if config.is_trained_on_outlines:
        return
    for name, question in questions.items():
        if question.zone is not None:
            message = "nano was not taught zones: take `zone` out, or choose another model"
            yield SettingProblem(key=("questions", name, "zone"), message=message)

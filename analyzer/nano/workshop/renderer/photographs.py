"""Photographs as grounds, walls, clothes and views, from packages installed for training.

None of them is committed, and rendering works without them. From Debian (in brackets the
licences of what is taken), 590 MB to fetch:

    apt-get install --no-install-recommends ufoai-textures mate-backgrounds \
        lomiri-wallpapers-16.04 palapeli-data plasma-workspace-wallpapers opencv-doc

- ufoai-textures (GPL-2, GPL-2+, GPL-3+, CC-BY-3.0, CC-BY-SA-3.0, Expat, public domain): most of
  the grounds, walls and cloths, made from photographs for UFO: Alien Invasion;
- mate-backgrounds (GPL-2+), lomiri-wallpapers-16.04 (CC-BY-4.0, CC-BY-SA-4.0, CC0),
  palapeli-data (GPL-2+), plasma-workspace-wallpapers (GPL-2+): landscapes, buildings, trees;
- opencv-doc (BSD-3-Clause, Apache-2.0): stills of streets and houses; of its videos nothing.

From PyPI with `pip install longwatch[nano]`: scikit-image (CC0 and public domain), brick, grass,
gravel and a view; scikit-learn (CC-BY-2.0), a view.
"""

import io
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Self

import numpy as np
import structlog
from numpy.random import Generator
from PIL import Image

from analyzer.nano.workshop.renderer.textures import Surface

logger = structlog.get_logger()

FOLDERS = (
    "/usr/share/games/ufoai/base/0textures.pk3",
    "/usr/share/backgrounds",
    "/usr/share/palapeli/collection",
    "/usr/share/wallpapers",
    "/usr/share/doc/opencv-doc/examples",
)
PACKAGES = {"skimage": "data", "sklearn": "datasets/images"}
"""Python packages, and the folders of their pictures."""

NAME_WORDS: dict[Surface, str] = {
    "ground": "arctic asphalt base cobble cold concrete desert dirt drymud floor grass gravel"
    " ground jungle marble mud paving pavement pebble railway road rock sand sidewalk snow soil"
    " stone straw street tile tropical wood_chips",
    "wall": "brick cement concrete container door facade marble metal plaster plate roof rust"
    " shell shutter stucco wall window wood",
    "cloth": "bark brick carpet cloth couch curtain fabric fur grass_tall hedge jute leaves pebble"
    " seat stone straw stucco textil tile wallpaper wood",
}
"""Prefixes of words in the names of pictures, by kind."""
VIEW_PATHS = (
    r"/backgrounds/|/collection/|/datasets/images/"
    r"|/(bythewater|coldripple|darkesthour|eveningglow|fallenleaf|grey|kite|path|summer_1am)"
    r"/contents/images/1280x1024"
    r"|/skimage/data/rocket|/tex_pics/landsc"
    r"|/opencv-doc/.*/(aero1|building|home|leuven[ab]|scenetext0[2-6])\.jpg"
)
"""Paths of whole photographs, which serve as views alone."""
EXCLUDED_PATHS = (
    r"_(nm|sm|gm|rm|g|normal|height|spec|bump|mask)\.[a-z]+$"
    r"|/tex_(alienb|anim|base|common|lights|misc/(?!container)|pics/(?!landsc)|shop|tech|ufo)"
    r"|/tex_(trak/(?!trak4_(brick|concrete|plaster))|vehicles)"
    r"|/(clothes|floor031|metalbridge6broke|wall_ind|wall_y_1|wallpaper007|yellow_rust)"
    r"|/backgrounds/.*(abstract|desktop|warty|analogpattern|umang)"
    r"|/(backgrounds|collection|images)/.*(aqua|bee|chameleon|fruits|flower|ladybird|twowings"
    r"|picture_|greentock)|/wallpapers/(?!.*/1280x1024)"
    r"|/opencv-doc/(?!.*/(aero1|building|home|leuven[ab]|scenetext0[2-6])\.jpg)"
)
"""Paths of pictures to ignore: normal maps, sprites, signs, stains, close-ups, drawings."""

MAX_SIDE: dict[Surface, int] = {"ground": 256, "wall": 256, "cloth": 96, "view": 384}
"""Pixels of the longer side that are kept."""
MIN_SIDE, MIN_DEVIATION, MAX_ASPECT = 96, 3.0, 4.0
"""Pixels of the shorter side, grey levels of deviation, and how much longer than wide it may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Photographs:
    """A bank of photographs in memory, uint8 (H, W, 3) each."""

    pictures: dict[Surface, tuple[np.ndarray, ...]]

    @classmethod
    def installed(cls) -> Self | None:
        """Return the photographs of the packages above on this machine, None if there are none."""
        folders = [*map(Path, FOLDERS), *_inside_packages()]
        kept = _cache_path(folders)
        bank = cls.read(kept)
        if bank is None:
            bank = cls.of(folders)
            if bank is not None:
                bank.write(kept)
        return bank

    @classmethod
    def of(cls, folders: Iterable[Path]) -> Self | None:
        """Return the photographs in folders and zip archives, None if there is none."""
        pictures: dict[Surface, list[np.ndarray]] = {kind: [] for kind in MAX_SIDE}
        for path, data in _files(folders):
            for kind in kinds(path):
                picture = load(path, data, MAX_SIDE[kind])
                if picture is not None:
                    pictures[kind].append(picture)
        return cls._from_pictures(pictures)

    @classmethod
    def read(cls, cache_path: Path) -> Self | None:
        """Return the bank that was written to a file, None if there is none to be read."""
        pictures: dict[Surface, list[np.ndarray]] = {kind: [] for kind in MAX_SIDE}
        try:
            with cache_path.open("rb") as file, np.load(file) as opened:
                for name, picture in opened.items():
                    pictures[name.split()[0]].append(picture)
        except FileNotFoundError:
            return None
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            logger.warning("photographs_broken", path=str(cache_path), error=str(error))
            return None
        return cls._from_pictures(pictures)

    def write(self, cache_path: Path) -> None:
        """Write the bank to a file, which takes a tenth of the time to read."""
        named = {
            f"{kind} {i}": picture
            for kind, pictures in self.pictures.items()
            for i, picture in enumerate(pictures)
        }
        try:
            cache_path.parent.mkdir(parents=True, exist_ok=True)
            for older in cache_path.parent.glob("photographs-*"):
                older.unlink(missing_ok=True)
            with NamedTemporaryFile(
                dir=cache_path.parent, prefix="photographs-", delete=False
            ) as file:
                np.savez(file, allow_pickle=False, **named)
            Path(file.name).replace(cache_path)
        except OSError as error:
            logger.warning("photographs_not_kept", path=str(cache_path), error=str(error))

    @classmethod
    def _from_pictures(cls, pictures: dict[Surface, list[np.ndarray]]) -> Self | None:
        logger.info("photographs", **{kind: len(found) for kind, found in pictures.items()})
        if not any(pictures.values()):
            return None
        return cls(pictures={kind: tuple(found) for kind, found in pictures.items()})

    def crop(self, r: Generator, kind: Surface, height: int, width: int) -> np.ndarray:
        """Return a random part (height, width, 3), turned, mirrored and tinted, uint8.

        A kind without a photograph borrows from all.
        """
        pictures = self.pictures[kind] or sum(self.pictures.values(), ())
        picture = pictures[r.integers(len(pictures))]
        turns = 0 if kind == "view" else int(r.integers(4))
        part = np.rot90(_part(r, picture, height / width if turns % 2 else width / height), turns)
        if r.random() < 0.5:
            part = part[:, ::-1]
        image = Image.fromarray(np.ascontiguousarray(part))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.array(image.point(_tint(r)))


def kinds(path: str) -> tuple[Surface, ...]:
    """Return the uses of a picture, by its path."""
    path = path.lower()
    if re.search(EXCLUDED_PATHS, path) or not re.search(r"\.(jpe?g|png|webp)$", path):
        return ()
    if re.search(VIEW_PATHS, path):
        return ("view",)
    return tuple(
        kind for kind, words in NAME_WORDS.items() if re.search(_name_pattern(words), path)
    )


@cache
def _name_pattern(words: str) -> str:
    return rf"[/_ -]({words.replace(' ', '|')})[^/]*$"


def load(path: str, data: bytes, longest: int) -> np.ndarray | None:
    """Return a picture made small, None if it is broken, flat, tiny or has holes."""
    try:
        picture = Image.open(io.BytesIO(data))
        picture.draft("RGB", (longest, longest))
        whole = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        logger.warning("photograph_broken", path=path, error=str(error))
        return None
    if min(picture.size) < MIN_SIDE or max(picture.size) > MAX_ASPECT * min(picture.size):
        return None
    if whole.mode == "RGBA" and np.asarray(whole.getchannel("A")).min() < 250:
        return None
    whole.thumbnail((longest, longest), Image.Resampling.BOX)
    pixels = np.asarray(whole.convert("RGB"))
    return pixels if pixels.mean(-1).std() > MIN_DEVIATION else None


def _cache_path(folders: Iterable[Path]) -> Path:
    """Return the cache path for these folders, which differs once they change."""
    digest = sha256(Path(__file__).read_bytes())
    for folder in folders:
        for file in [folder, *sorted(folder.rglob("*"))]:
            if file.is_file():
                digest.update(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "longwatch" / f"photographs-{digest.hexdigest()[:16]}.npz"


def _inside_packages() -> Iterator[Path]:
    for name, folder in PACKAGES.items():
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            yield Path(spec.origin).parent / folder


def _files(folders: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    for folder in folders:
        for file in [folder] if folder.is_file() else sorted(folder.rglob("*")):
            if file.suffix in {".pk3", ".zip", ".jar"}:
                yield from _members(file)
            elif file.is_file() and kinds(str(file)):
                yield str(file), file.read_bytes()


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(archive) as opened:
            for name in sorted(opened.namelist()):
                path = f"{archive}/{name}"
                if kinds(path):
                    yield path, opened.read(name)
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        logger.warning("photographs_broken", path=str(archive), error=str(error))


def _part(r: Generator, picture: np.ndarray, aspect: float) -> np.ndarray:
    height, width = picture.shape[:2]
    share = r.uniform(0.35, 1)
    high = max(int(share * min(height, width / aspect)), 1)
    wide = max(int(share * min(width, height * aspect)), 1)
    top, left = r.integers(height - high + 1), r.integers(width - wide + 1)
    return picture[top : top + high, left : left + wide]


def _tint(r: Generator) -> list[int]:
    gain = r.uniform(0.6, 1.3) * r.uniform(0.88, 1.12, 3)
    return np.clip(np.arange(256) * gain[:, None], 0, 255).astype(int).ravel().tolist()
